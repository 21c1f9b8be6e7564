"""The control actor: carries progress from runs to the driver, and stop requests from the driver to runs.

Runs never wait for the driver: a thread sends the newest report once a second, and the reply may be a stop request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rt_scale.ray_backend.losses import ANSWER, draining_nodes, lost_node
from rt_scale.scheduler.job import RunReport
from rt_scale.spec.errors import RtScaleError
from rt_scale.store.lease import Process

INTERVAL = 1.0
"""Seconds between two reports of a run."""
LOOK = 2.0
"""Seconds between two checks of draining nodes."""
NAME = "rt-scale-control"


class StopReason(Enum):
    """Why a run is to stop."""

    ASKED = "asked"
    PREEMPTED = "preempted"
    ENDED_EARLY = "ended early"


@dataclass(frozen=True)
class StopRequest:
    """A request that a run stop: the reason, and its text for users."""

    reason: StopReason
    text: str


class _Control:
    def __init__(self) -> None:
        self._reports: dict[str, RunReport] = {}
        self._stop: StopRequest | None = None
        self._draining: set[str] = set()
        self._looked = -LOOK
        self._leaving: dict[str, StopRequest] = {}
        self._nodes: dict[str, set[str]] = {}
        self._refused: dict[str, RtScaleError] = {}
        self._ended: dict[str, StopRequest] = {}
        self._processes: dict[str, Process] = {}

    def executes(self, run: str, process: Process) -> None:
        """Keep which process holds the lease of a run."""
        self._processes[run] = process

    def process(self, run: str) -> Process | None:
        """The process that held the lease of a run last, if any did."""
        return self._processes.get(run)

    def report(self, run: str, report: RunReport | None, node: str) -> StopRequest | None:
        """Keep the newest report of a run, if any; returns its stop request, if any."""
        if report is not None:
            unread = self._reports[run].warnings if run in self._reports else ()
            self._reports[run] = replace(report, warnings=unread + report.warnings)
        if time.monotonic() - self._looked >= LOOK:
            self._looked, self._draining = time.monotonic(), draining_nodes()
        self._nodes.setdefault(run, set()).add(node)
        if node in self._draining and run not in self._leaving:
            # All workers of this run stop, not only those on that node.
            self._leaving[run] = StopRequest(StopReason.PREEMPTED, lost_node(node))
        return self._request(run)

    def _request(self, run: str) -> StopRequest | None:
        return self._ended.get(run) or self._stop or self._leaving.get(run)

    def end(self, run: str, why: str) -> None:
        """Request that a run end early."""
        self._ended[run] = StopRequest(StopReason.ENDED_EARLY, why)

    def begin(self, run: str) -> None:
        """Forget preemption, nodes and refusals of an earlier attempt of a run."""
        for kept in (self._leaving, self._nodes, self._refused):
            kept.pop(run, None)

    def refuse(self, run: str, error: RtScaleError) -> None:
        """Keep a worker's reason why a run cannot be executed."""
        self._refused[run] = error

    def outcome(self, run: str) -> tuple[StopRequest | None, RtScaleError | None, set[str]]:
        """The stop request of a run, and the refusal of a worker, if any; the nodes of its workers."""
        return self._request(run), self._refused.get(run), self._nodes.get(run, set())

    def news(self) -> dict[str, RunReport]:
        """The newest report of every run that reported since the last call."""
        news, self._reports = self._reports, {}
        return news

    def stop(self, why: str) -> None:
        """Request that every run stop."""
        self._stop = StopRequest(StopReason.ASKED, why)


class ControlActor:
    """The driver's side; a context manager that starts the actor on the connected Ray."""

    def __enter__(self) -> ControlActor:
        # Not soft: then Ray 2.60 takes any node for an actor without resources, and its loss would silence all runs.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(_Control).options(name=NAME, num_cpus=0, scheduling_strategy=here, max_concurrency=1)
        self._actor = actor.remote()
        self._pending: ray.ObjectRef | None = None
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            ray.kill(self._actor)

    def news(self) -> Mapping[str, RunReport]:
        """Newest reports by run; never blocks: a pending reply comes with the next call."""
        if self._pending is None:
            self._pending = self._actor.news.remote()
        ready, _ = ray.wait([self._pending], timeout=0)
        if not ready:
            return {}
        self._pending = None
        with suppress(ray.exceptions.RayError):  # a dead actor loses only reports to show
            return dict(ray.get(ready[0]))
        return {}

    def process(self, run: str) -> Process | None:
        """The process that held the lease of a run last, if known."""
        with suppress(ray.exceptions.RayError):
            found: Process | None = ray.get(self._actor.process.remote(run), timeout=ANSWER)
            return found
        return None

    def stop(self, why: str) -> None:
        """Request that every run write a checkpoint and stop."""
        self._actor.stop.remote(why)

    def end(self, run: str, why: str) -> None:
        """Request that one run end early; its next report after this returns receives the request."""
        ray.get(self._actor.end.remote(run, why))


class ControlClient:
    """A run's side (an Observer): keeps its newest report, and sends it from a thread.

    If the actor died with its driver, the run continues. ``where`` says in words what the run is executed on; only the
    first of several workers is ``shown``, i.e. reports; ``stop_request`` holds the stop request, if any.
    """

    def __init__(self, run: str, where: str, *, shown: bool = True) -> None:
        self.run, self._shown = run, shown
        self.stop_request: StopRequest | None = None
        self.newest = RunReport(where=where)
        self._warnings: list[str] = []
        self._over = threading.Event()
        self._control: Any = None
        with suppress(ValueError):
            self._control = ray.get_actor(NAME)

    @property
    def preempted(self) -> bool:
        """Whether the run is to stop because its node shuts down."""
        return self.stop_request is not None and self.stop_request.reason is StopReason.PREEMPTED

    def stop(self) -> bool:
        """Whether a stop was requested (``Options.stop``)."""
        return self.stop_request is not None

    def stage(self, text: str) -> None:
        """Set the current stage."""
        self.newest = replace(self.newest, stage=text)

    def started(self, step: int, steps: int) -> None:
        """Training starts or resumes."""
        self.newest = replace(self.newest, step=step, steps=steps, began=step, stage="training")

    def stepped(self, step: int) -> None:
        """An optimiser step was issued."""
        self.newest = replace(self.newest, step=step)

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded."""
        self.newest = replace(self.newest, values={**self.newest.values, **values}, epoch=epoch)

    def decided(self, text: str) -> None:
        """Do nothing: environment.json keeps it."""

    def warned(self, text: str) -> None:
        """Add a warning to the next report."""
        self._warnings.append(text)

    @contextmanager
    def reporting(self) -> Iterator[ControlClient]:
        """While active, send the newest report every ``INTERVAL`` seconds; first, which process executes the run."""
        if self._shown:
            self._call("executes", Process.current())
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
        """Send one report, and receive a stop request if there is one."""
        warnings, self._warnings = self._warnings, []
        report = replace(self.newest, warnings=tuple(warnings)) if self._shown else None
        answer = self._call("report", report, ray.get_runtime_context().get_node_id())
        self.stop_request = self.stop_request or answer

    def begin(self) -> None:
        """Start an attempt of the run."""
        self._call("begin")

    def refuse(self, error: RtScaleError) -> None:
        """Report why the run cannot be executed."""
        self._call("refuse", error)

    def outcome(self) -> tuple[StopRequest | None, RtScaleError | None, set[str]]:
        """The stop request of the run's workers, and the refusal of one of them, if any; the ids of their nodes."""
        found: tuple[StopRequest | None, RtScaleError | None, set[str]] | None = self._call("outcome")
        return found or (None, None, set())

    def _call(self, method: str, *given: object) -> Any:
        if self._control is not None:
            with suppress(ray.exceptions.RayError):
                return ray.get(getattr(self._control, method).remote(self.run, *given), timeout=10)
        return None
