"""How long jobs take: the sweep's own queue on a simulated clock, and on a cluster whose machines may be taken away."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rt_scale.ray_backend.resources import Kind
from rt_scale.scheduler.job import Job, JobOutcome, JobState, RunReport, View
from rt_scale.scheduler.queue import Queue
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize
from rt_scale.store.run_dir import State

if TYPE_CHECKING:
    from rt_scale.plan.estimate import Estimate

REPLACEMENT = 120.0
"""Seconds, assumed, until a machine that was taken away is replaced."""
HOPELESS = 5.0
"""Interruptions expected between two checkpoints from which on a run practically never ends (1 chance in 150)."""
ROUNDING = 1e-9
"""Of sums of fractions of a GPU."""
DONE, INTERRUPTED = JobOutcome(JobState.DONE), JobOutcome(JobState.DIED, "interrupted")
PARTS = 2**30
"""Of a run, in which the queue is told how far it is."""


@dataclass(frozen=True)
class Simulated:
    """What became of a queue.

    Attributes:
        makespan: seconds until the last run was done.
        interruptions: how often a process was interrupted.
        lost: seconds of computing that had to be done again.
        given_up: runs that were interrupted more than ``launch.retries`` times in a row without a new checkpoint, and
            those that start from them.
    """

    makespan: float
    interruptions: int
    lost: float
    given_up: int


@dataclass(frozen=True)
class Schedule:
    """How a queue was worked off.

    Attributes:
        outcome: what became of it.
        together: name of a run -> how many runs its first process trained, it included.
        processes: how many were started.
        work: seconds of computing times what was occupied, by kind.
        peak: what was occupied at once, at most, by kind.
    """

    outcome: Simulated
    together: Mapping[str, int]
    processes: int
    work: Mapping[Kind, float]
    peak: Mapping[Kind, float]


NOTHING = Schedule(Simulated(0.0, 0, 0.0, 0), {}, 0, {}, {})
"""How a queue of no jobs is worked off."""


def occupied(launch: LaunchSpec) -> tuple[Kind, float]:
    """What a run takes with all of its workers, and how many of that."""
    return "gpu" if launch.gpus else "cpu", (launch.gpus or launch.cpus) * launch.workers


def simulate(
    jobs: Mapping[str, Job],
    estimate: Callable[[Job, int], Estimate],
    capacity: Mapping[Kind, float],
    *,
    concurrency: int | None = None,
    rate: float = 0.0,
    generator: np.random.Generator | None = None,
    replacement: float = REPLACEMENT,
    sizes: Callable[[Job], int | None] = lambda job: None,
) -> Schedule:
    """Work ``jobs`` off as a sweep does.

    A process that is interrupted loses what it did since its last checkpoint; what it occupied comes back after
    ``replacement`` seconds.

    Args:
        jobs: by the names of their runs, in the order in which they are wanted; whatever else they start from is done.
        estimate: how long a run takes in a process of so many; ``seconds`` are known.
        capacity: GPUs and cores.
        concurrency: runs at a time, at most; None: any number.
        rate: interruptions an hour of each process (a Poisson process).
        generator: draws the interruptions; needed where ``rate`` is above 0.
        replacement: seconds that a machine which was taken away is missing for.
        sizes: of ``launch.pack: auto``, how many runs were measured to be best together; None: not measured, so alone.

    Raises:
        InputError: a run that never fits, or at that rate practically never ends.
    """
    if rate and generator is None:
        raise ValueError("interruptions are drawn: give their generator")
    for launch in {job.launch for job in jobs.values()}:
        _refuse_misfit(launch, capacity)
    simulation = _Simulation(jobs, estimate, capacity, concurrency, rate, generator, replacement)
    for job in jobs.values():
        if job.launch.pack == "auto" and simulation.queue.batching.known(job) is None:
            simulation.queue.batching.learn(job, BatchSize(size=sizes(job) or 1))
    return simulation.run()


def _refuse_misfit(launch: LaunchSpec, capacity: Mapping[Kind, float]) -> None:
    kind, units = occupied(launch)
    there = capacity.get(kind, 0)
    if units > there:
        what, option = ("GPUs", "--gpus") if kind == "gpu" else ("CPU cores", "--cpus")
        raise InputError(
            f"A run asks for {units:g} {what}, but the plan is for {there:g}. Plan for at least "
            f"{math.ceil(units)} (rt-scale plan {option}), or lower launch.{kind}s in the sweep file."
        )


class _SimulatedRuns:
    """The runs of a queue in which nothing but its jobs is to be done."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def state(self, name: str) -> State:
        return "missing" if name in self._names else "done"

    def state_now(self, name: str) -> State:
        return "partial"  # asked of runs that died alone

    def values(self, name: str) -> Mapping[str, float]:
        return {}

    def fail(self, spec: RunSpec, why: str) -> None:
        """Nothing is recorded."""


class _SimulatedCluster:
    """GPUs and cores, some of them occupied."""

    def __init__(self, capacity: Mapping[Kind, float]) -> None:
        self.capacity, self.free, self.least_free = capacity, dict(capacity), dict(capacity)

    def at_once(self, launch: LaunchSpec) -> int:
        kind, units = occupied(launch)
        return max(1, int(self.capacity[kind] / units + ROUNDING))

    def has_room(self, launch: LaunchSpec, running: int) -> bool:
        kind, units = occupied(launch)
        return units <= self.free[kind] + ROUNDING

    def occupy(self, kind: Kind, units: float) -> None:
        self.free[kind] -= units
        self.least_free[kind] = min(self.least_free[kind], self.free[kind])


class _Event(NamedTuple):
    """The end of a process, good or bad; or, without jobs, what it occupied is there again."""

    jobs: Sequence[Job]
    how: JobOutcome
    kind: Kind
    freed: float


class _Simulation:
    def __init__(
        self,
        jobs: Mapping[str, Job],
        estimate: Callable[[Job, int], Estimate],
        capacity: Mapping[Kind, float],
        concurrency: int | None,
        rate: float,
        generator: np.random.Generator | None,
        replacement: float,
    ) -> None:
        self.estimate, self.rate, self.generator, self.replacement = estimate, rate, generator, replacement
        self.now, self.issued = 0.0, 0
        self.cluster = _SimulatedCluster(capacity)
        self.queue = Queue(
            jobs.values(), _SimulatedRuns(jobs.keys()), View(), self.cluster,
            concurrency=concurrency, clock=lambda: self.now,
        )  # fmt: skip
        self.events: list[tuple[float, int, _Event]] = []
        self.left: dict[str, float] = {}
        self.together: dict[str, int] = {}
        self.work: dict[Kind, float] = dict.fromkeys(capacity, 0.0)
        self.makespan, self.processes, self.interruptions, self.lost = 0.0, 0, 0, 0.0

    def run(self) -> Schedule:
        while not self.queue.finished:
            while batch := self.queue.take():
                self._start(batch)
            if not self.queue.finished:
                self._go_on()
        peak = {kind: has - self.cluster.least_free[kind] for kind, has in self.cluster.capacity.items()}
        outcome = Simulated(self.makespan, self.interruptions, self.lost, len(self.queue.failed))
        return Schedule(outcome, self.together, self.processes, self.work, peak)

    def _go_on(self) -> None:
        """To the next event, or to when the queue looks again at a run that it put off."""
        wakes = self.queue.wakes
        if wakes is not None and (not self.events or wakes < self.events[0][0]):
            self.now = wakes
            return
        self.now, _, event = heapq.heappop(self.events)
        self.cluster.free[event.kind] += event.freed
        for job in event.jobs:
            self.queue.ended(job.name, event.how)
        if event.how is DONE:
            self.makespan = self.now

    def _start(self, batch: Sequence[Job]) -> None:
        """Start a process, and decide how it ends."""
        kind, units = occupied(batch[0].launch)
        seconds, checkpoint = self._length(batch)
        self.processes += 1
        self.cluster.occupy(kind, units)
        until = self.generator.exponential(3600 / self.rate) if self.rate and self.generator is not None else math.inf
        if until >= seconds:
            self.work[kind] += seconds * units
            self._at(self.now + seconds, _Event(batch, DONE, kind, units))
            return
        kept = checkpoint * (until // checkpoint) if math.isfinite(checkpoint) else 0.0
        for job in batch:
            self.queue.reported(job.name, RunReport(began=int((1 - self.left[job.name]) * PARTS)))
            self.left[job.name] *= 1 - kept / seconds
        self.interruptions += 1
        self.lost += until - kept
        self._at(self.now + until, _Event(batch, INTERRUPTED, kind, 0.0))
        self._at(self.now + until + self.replacement, _Event((), INTERRUPTED, kind, units))

    def _length(self, batch: Sequence[Job]) -> tuple[float, float]:
        """Seconds that are left of the runs of a process, and those between two of its checkpoints."""
        seconds, checkpoint = 0.0, 0.0
        for job in batch:
            name, found = job.name, self.estimate(job, len(batch))
            assert found.seconds is not None  # as said above
            self.together.setdefault(name, len(batch))
            seconds += found.seconds * self.left.setdefault(name, found.left / found.seconds)
            checkpoint = max(checkpoint, found.checkpoint)
        segment = min(checkpoint, seconds)
        if self.rate * segment / 3600 > HOPELESS:
            raise InputError(
                f"At {self.rate:g} interruptions an hour a run would practically never end: {segment:,.0f} s pass "
                f"between two of its checkpoints. Give --rate at most {HOPELESS * 3600 / segment:,.1f}, or plan "
                "without spot machines."
            )
        return seconds, checkpoint

    def _at(self, time: float, event: _Event) -> None:
        self.issued += 1
        heapq.heappush(self.events, (time, self.issued, event))
