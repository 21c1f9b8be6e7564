"""The control actor: carries the progress of runs to the driver and requests to stop to the runs.

Runs never wait for the driver: a thread of theirs passes on the newest state once a second, and takes the answer
along. What was said is for people alone; the truth stands in the run directories.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rt_scale.ray_backend.probe import knock

EVERY_S = 2.0
"""Between two looks at the head."""
LOST_S = 10.0
"""A head that has not answered for so long is lost."""


@contextmanager
def cluster_lost(address: str, then: Callable[[], None], *, after: float = LOST_S) -> Iterator[None]:
    """Watch the head of a cluster from a thread, and call ``then`` once where it is lost.

    Ray waits for a lost head for 60 s and then ends this process on the spot, with code 1 and no exception; until
    then its calls, those that leave it among them, may not return. So ``then`` should say what happened and end the
    process (``os._exit``).

    Args:
        address: the head's GCS, as ``Cluster.address``.
        then: called from the watching thread, at most once.
        after: seconds for which the head does not answer.
    """
    end = threading.Event()

    def watch() -> None:
        silent_since: float | None = None
        while not end.wait(min(EVERY_S, after / 5)):
            if knock(address, EVERY_S):
                silent_since = None
                continue
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since >= after and not end.is_set():
                then()
                return

    thread = threading.Thread(target=watch, name="rt-scale-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()


def draining_nodes() -> dict[str, float]:
    """Nodes that are being drained or preempted, by Ray's id -> when they go, in seconds since 1970; 0: not said.

    From a driver or a worker: one question to the head, half a millisecond.
    """
    return {node: deadline / 1000 for node, deadline in state.get_draining_nodes().items()}


INTERVAL = 1.0
"""Seconds between two reports of a run."""
LOOK = 2.0
"""Seconds between two looks at which nodes are about to go."""
NAME = "rt-scale-control"
PREEMPTED = "its node is about to go"
ENDED = "ended early: "
"""How the answer begins to a run that its sweep's rule ends."""


class _Control:
    """What the actor does."""

    def __init__(self) -> None:
        self._news: dict[str, dict[str, Any]] = {}
        self._stop = ""
        self._draining: set[str] = set()
        self._looked = -LOOK
        self._leaving: set[str] = set()
        self._refused: dict[str, tuple[str, str]] = {}
        self._ended: dict[str, str] = {}

    def report(self, run: str, state: dict[str, Any] | None, node: str) -> str:
        """Keep the newest ``state`` of a run, if any; the answer is why it is to stop, or empty."""
        if state is not None:
            warnings = self._news.get(run, {}).get("warnings", []) + state.get("warnings", [])
            self._news[run] = {**state, "warnings": warnings}
        if time.monotonic() - self._looked >= LOOK:
            self._looked, self._draining = time.monotonic(), set(draining_nodes())
        if node in self._draining:
            # All processes that train this run together stop, whichever of them is on that node.
            self._leaving.add(run)
        return self._why(run)

    def _why(self, run: str) -> str:
        return self._ended.get(run) or self._stop or (PREEMPTED if run in self._leaving else "")

    def end(self, run: str, why: str) -> None:
        """A run is to end early, as its sweep's rule says."""
        self._ended[run] = ENDED + why

    def begin(self, run: str) -> None:
        """A run is started, again perhaps, where it may stay."""
        self._leaving.discard(run)
        self._refused.pop(run, None)

    def refuse(self, run: str, kind: str, text: str) -> None:
        """A worker of a run says why it cannot be executed."""
        self._refused[run] = kind, text

    def outcome(self, run: str) -> tuple[str, tuple[str, str] | None]:
        """Why a run was told to stop, and what a worker said that it cannot do."""
        return self._why(run), self._refused.get(run)

    def news(self) -> dict[str, dict[str, Any]]:
        """The newest state of every run that said something since this was last asked."""
        news, self._news = self._news, {}
        return news

    def stop(self, why: str) -> None:
        """From now on every run is told to stop."""
        self._stop = why


class ControlActor:
    """The driver's side; a context manager that starts the actor on the Ray that this process is connected to."""

    def __enter__(self) -> ControlActor:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(_Control).options(name=NAME, num_cpus=0, scheduling_strategy=here, max_concurrency=1)
        self._actor = actor.remote()
        self._asked: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            ray.kill(self._actor)

    def news(self) -> Mapping[str, Mapping[str, Any]]:
        """Newest states by run; never waits: what is under way comes with the next call."""
        if self._asked is None:
            self._asked = self._actor.news.remote()
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return {}
        asked, self._asked = self._asked, None
        with contextlib.suppress(ray.exceptions.RayError):  # an actor that died takes along what was shown alone
            found: dict[str, dict[str, Any]] = ray.get(asked)
            return found
        return {}

    def stop(self, why: str) -> None:
        """Tell every run to write a checkpoint and stop."""
        self._actor.stop.remote(why)

    def end(self, run: str, why: str) -> None:
        """Tell one run to end early; when this returns, the run hears of it."""
        ray.get(self._actor.end.remote(run, why))


class ControlClient:
    """A run's side (an Observer): keeps how it stands, and passes that on in a thread of its own.

    An actor that is gone, with its driver, is no news: the run goes on.

    Args:
        run: name of the run.
        where: what it is executed on, in words.
        shown: whether its state is shown; False for all but the first of several workers.

    Attributes:
        told: why it is to stop; empty while it is not.
    """

    def __init__(self, run: str, where: str, *, shown: bool = True) -> None:
        self.run, self.told, self._shown = run, "", shown
        self._state: dict[str, Any] = {"step": 0, "steps": 0, "stage": "starting", "values": {}, "where": where}
        self._warnings: list[str] = []
        self._over = threading.Event()
        self._control: Any = None
        with contextlib.suppress(ValueError):
            self._control = ray.get_actor(NAME)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; 0 while that is not known."""
        return int(self._state["steps"])

    @property
    def values(self) -> dict[str, float]:
        """The newest values of all metrics."""
        return dict(self._state["values"])

    def stop(self) -> bool:
        """Whether this run is to stop (``Options.stop``)."""
        return bool(self.told)

    def stage(self, text: str) -> None:
        """What is being done now."""
        self._state["stage"] = text

    def started(self, step: int, steps: int) -> None:
        """Training starts, or goes on."""
        self._state |= {"step": step, "steps": steps, "began": step, "stage": "training"}

    def stepped(self, step: int) -> None:
        """An optimiser step was issued."""
        self._state["step"] = step

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded."""
        self._state |= {"values": self._state["values"] | dict(values), "epoch": epoch}

    def decided(self, text: str) -> None:
        """Kept in the run's environment."""

    def warned(self, text: str) -> None:
        """Passed on."""
        self._warnings.append(text)

    @contextlib.contextmanager
    def reporting(self) -> Iterator[ControlClient]:
        """While active, the newest state is passed on."""
        thread = threading.Thread(target=self._report, name="client", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            self.pass_on()

    def _report(self) -> None:
        while True:
            self.pass_on()
            if self._over.wait(INTERVAL):
                return

    def pass_on(self) -> None:
        """Say once how the run stands, and hear whether it is to stop."""
        warnings, self._warnings = self._warnings, []
        state = {**self._state, "warnings": warnings} if self._shown else None
        answer = self._call("report", state, ray.get_runtime_context().get_node_id())
        self.told = self.told or answer or ""

    def begin(self) -> None:
        """The run's workers are about to be started."""
        self._call("begin")

    def refuse(self, error: Exception) -> None:
        """Say why the run cannot be executed."""
        self._call("refuse", type(error).__name__, str(error))

    def outcome(self) -> tuple[str, tuple[str, str] | None]:
        """Why the run's workers were told to stop, and what one of them said that it cannot do."""
        found: tuple[str, tuple[str, str] | None] = self._call("outcome") or ("", None)
        return found

    def _call(self, method: str, *given: Any) -> Any:
        if self._control is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                return ray.get(getattr(self._control, method).remote(self.run, *given), timeout=10)
        return None
