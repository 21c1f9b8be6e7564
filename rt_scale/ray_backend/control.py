"""The control actor: carries progress from runs to the driver, and requests to stop from the driver to runs.

Runs never wait for the driver: a thread of theirs passes on the newest report once a second, and hears the answer. What
is reported is for people alone; the truth stands in the run directories.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import ray
from ray._private.state import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rt_scale.ray_backend.probe import port_answers
from rt_scale.scheduler.job import RunReport
from rt_scale.spec.errors import RtScaleError

INTERVAL = 1.0
"""Seconds between two reports of a run."""
LOOK = 2.0
"""Seconds between two looks at which nodes are about to go, and at the head."""
LOST_S = 10.0
"""A head that has not answered for so long is lost."""
NAME = "rt-scale-control"


class StopReason(Enum):
    """Why a run is to stop."""

    ASKED = "asked"
    PREEMPTED = "preempted"
    ENDED_EARLY = "ended early"


@dataclass(frozen=True)
class StopRequest:
    """That a run is to stop: the reason, and what people are told of it."""

    reason: StopReason
    text: str


PREEMPTED = StopRequest(StopReason.PREEMPTED, "its node is about to go")


class _Control:
    """What the actor does."""

    def __init__(self) -> None:
        self._reports: dict[str, RunReport] = {}
        self._stop: StopRequest | None = None
        self._draining: set[str] = set()
        self._looked = -LOOK
        self._leaving: set[str] = set()
        self._refused: dict[str, RtScaleError] = {}
        self._ended: dict[str, StopRequest] = {}

    def report(self, run: str, report: RunReport | None, node: str) -> StopRequest | None:
        """Keep the newest report of a run, if any; the answer is whether it is to stop."""
        if report is not None:
            unread = self._reports[run].warnings if run in self._reports else ()
            self._reports[run] = replace(report, warnings=unread + report.warnings)
        if time.monotonic() - self._looked >= LOOK:
            self._looked, self._draining = time.monotonic(), set(draining_nodes())
        if node in self._draining:
            # All processes that train this run together stop, whichever of them is on that node.
            self._leaving.add(run)
        return self._request(run)

    def _request(self, run: str) -> StopRequest | None:
        return self._ended.get(run) or self._stop or (PREEMPTED if run in self._leaving else None)

    def end(self, run: str, why: str) -> None:
        """A run is to end early, as its sweep's rule says."""
        self._ended[run] = StopRequest(StopReason.ENDED_EARLY, why)

    def begin(self, run: str) -> None:
        """A run is started, again perhaps, where it may stay."""
        self._leaving.discard(run)
        self._refused.pop(run, None)

    def refuse(self, run: str, error: RtScaleError) -> None:
        """A worker of a run says why it cannot be executed."""
        self._refused[run] = error

    def outcome(self, run: str) -> tuple[StopRequest | None, RtScaleError | None]:
        """Why a run was told to stop, and what a worker said that it cannot do."""
        return self._request(run), self._refused.get(run)

    def news(self) -> dict[str, RunReport]:
        """The newest report of every run that reported since this was last called."""
        news, self._reports = self._reports, {}
        return news

    def stop(self, why: str) -> None:
        """From now on every run is told to stop."""
        self._stop = StopRequest(StopReason.ASKED, why)


class ControlActor:
    """The driver's side; a context manager that starts the actor on the Ray that this process is connected to."""

    def __enter__(self) -> ControlActor:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(_Control).options(name=NAME, num_cpus=0, scheduling_strategy=here, max_concurrency=1)
        self._actor = actor.remote()
        self._pending: ray.ObjectRef | None = None
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            ray.kill(self._actor)

    def news(self) -> Mapping[str, RunReport]:
        """Newest reports by run; never waits: what is under way comes with the next call."""
        if self._pending is None:
            self._pending = self._actor.news.remote()
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return {}
        self._pending = None
        with suppress(ray.exceptions.RayError):  # with an actor that died goes what was to be shown, no more
            return dict(ray.get(ready[0]))
        return {}

    def stop(self, why: str) -> None:
        """Tell every run to write a checkpoint and stop."""
        self._actor.stop.remote(why)

    def end(self, run: str, why: str) -> None:
        """Tell one run to end early; when this returns, the run hears of it."""
        ray.get(self._actor.end.remote(run, why))


class ControlClient:
    """A run's side (an Observer): keeps its newest report, and passes that on in a thread of its own.

    Where the actor is gone, with its driver, the run goes on.

    Args:
        run: name of the run.
        where: what it is executed on, in words.
        shown: whether it reports; False for all but the first of several workers.

    Attributes:
        told: why it is to stop; None while it is not.
    """

    def __init__(self, run: str, where: str, *, shown: bool = True) -> None:
        self.run, self._shown = run, shown
        self.told: StopRequest | None = None
        self.newest = RunReport(where=where)
        self._warnings: list[str] = []
        self._over = threading.Event()
        self._control: Any = None
        with suppress(ValueError):
            self._control = ray.get_actor(NAME)

    def stop(self) -> bool:
        """Whether this run is to stop (``Options.stop``)."""
        return self.told is not None

    def stage(self, text: str) -> None:
        """What is being done now."""
        self.newest = replace(self.newest, stage=text)

    def started(self, step: int, steps: int) -> None:
        """Training starts, or goes on."""
        self.newest = replace(self.newest, step=step, steps=steps, began=step, stage="training")

    def stepped(self, step: int) -> None:
        """An optimiser step was issued."""
        self.newest = replace(self.newest, step=step)

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded."""
        self.newest = replace(self.newest, values={**self.newest.values, **values}, epoch=epoch)

    def decided(self, text: str) -> None:
        """Kept in the run's environment."""

    def warned(self, text: str) -> None:
        """Passed on."""
        self._warnings.append(text)

    @contextmanager
    def reporting(self) -> Iterator[ControlClient]:
        """While active, the newest report is passed on."""
        thread = threading.Thread(target=self._pass_on_again, name="client", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            self.pass_on()

    def _pass_on_again(self) -> None:
        while True:
            self.pass_on()
            if self._over.wait(INTERVAL):
                return

    def pass_on(self) -> None:
        """Report once, and hear whether to stop."""
        warnings, self._warnings = self._warnings, []
        report = replace(self.newest, warnings=tuple(warnings)) if self._shown else None
        answer = self._call("report", report, ray.get_runtime_context().get_node_id())
        self.told = self.told or answer

    def begin(self) -> None:
        """The run's workers are about to be started."""
        self._call("begin")

    def refuse(self, error: RtScaleError) -> None:
        """Say why the run cannot be executed."""
        self._call("refuse", error)

    def outcome(self) -> tuple[StopRequest | None, RtScaleError | None]:
        """Why the run's workers were told to stop, and what one of them said that it cannot do."""
        told, refused = self._call("outcome") or (None, None)
        return told, refused

    def _call(self, method: str, *given: object) -> Any:
        if self._control is not None:
            with suppress(ray.exceptions.RayError):
                return ray.get(getattr(self._control, method).remote(self.run, *given), timeout=10)
        return None


@contextmanager
def watch_head(address: str, lost: Callable[[], None], *, after: float = LOST_S) -> Iterator[None]:
    """Watch the head of a cluster from a thread, and call ``lost`` once where it is.

    Ray waits for a lost head for 60 s and then ends this process on the spot, with code 1 and no exception; until
    then its calls, those that leave it among them, may not return. So ``lost`` should say what happened and end the
    process (``os._exit``).

    Args:
        address: the head's GCS, as ``Cluster.address``.
        lost: called from the watching thread, at most once.
        after: seconds for which the head does not answer.
    """
    end = threading.Event()

    def watch() -> None:
        silent_since: float | None = None
        while not end.wait(min(LOOK, after / 5)):
            if port_answers(address, LOOK):
                silent_since = None
                continue
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since >= after and not end.is_set():
                lost()
                return

    threading.Thread(target=watch, name="rt-scale-head", daemon=True).start()
    try:
        yield
    finally:
        end.set()


def draining_nodes() -> dict[str, float]:
    """Nodes that are being drained or preempted, by Ray's id -> when they go, in seconds since 1970; 0: not said.

    From a driver or a worker: one question to the head, half a millisecond.
    """
    return {node: deadline / 1000 for node, deadline in state.get_draining_nodes().items()}
