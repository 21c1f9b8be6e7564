"""How long jobs take: the real queue on a simulated clock, on machines that may be interrupted."""

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
"""Seconds until an interrupted machine is replaced (assumed)."""
HOPELESS = 5.0
"""At this many expected interruptions between two checkpoints, a run practically never ends (1 chance in 150)."""
ROUNDING = 1e-9
"""Tolerance of sums of fractions of a GPU."""
DONE, INTERRUPTED = JobOutcome(JobState.DONE), JobOutcome(JobState.DIED, "interrupted")
PARTS = 2**30
"""Steps of a simulated run, in which its progress is reported to the queue."""


@dataclass(frozen=True)
class Simulated:
    """How a simulated queue came out.

    Attributes:
        makespan: seconds until the last run was done.
        interruptions: number of interrupted processes.
        lost: seconds that were computed twice.
        given_up: runs interrupted more than ``launch.retries`` times in a row without a new checkpoint, and those that
            start from them.
    """

    makespan: float
    interruptions: int
    lost: float
    given_up: int


@dataclass(frozen=True)
class Schedule:
    """How a queue was executed.

    Attributes:
        together: name of a run -> number of runs in its first process.
        processes: number of processes started.
        work: GPU-seconds or core-seconds, by kind.
        peak: most GPUs or cores in use at once, by kind.
    """

    outcome: Simulated
    together: Mapping[str, int]
    processes: int
    work: Mapping[Kind, float]
    peak: Mapping[Kind, float]


NOTHING = Schedule(Simulated(0.0, 0, 0.0, 0), {}, 0, {}, {})
"""The schedule of an empty queue."""


def occupied(launch: LaunchSpec) -> tuple[Kind, float]:
    """Kind and number of the GPUs or cores that a run takes with all of its workers."""
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
    """Execute ``jobs`` as a sweep does.

    An interrupted process loses what it did since its last checkpoint; its resources return after ``replacement``
    seconds.

    Args:
        jobs: by run name, in order of priority; all other runs that they start from count as done.
        estimate: (job, batch size) -> estimate with known ``seconds``.
        capacity: number of GPUs and cores.
        concurrency: most runs at a time; None: any number.
        rate: interruptions per hour of each process (a Poisson process).
        generator: draws the interruptions; needed if ``rate`` > 0.
        replacement: seconds until an interrupted machine is replaced.
        sizes: for ``launch.pack: auto``, the measured best batch size; None: not measured, so 1.

    Raises:
        InputError: a run needs more than ``capacity``, or at that rate practically never ends.
    """
    if rate and generator is None:
        raise ValueError("interruptions are random: give a generator")
    for launch in {job.launch for job in jobs.values()}:
        _refuse_misfit(launch, capacity)
    simulation = _Simulation(jobs, estimate, capacity, concurrency, rate, generator, replacement)
    for job in jobs.values():
        if job.launch.pack == "auto" and simulation.queue.known(job) is None:
            simulation.queue.learn(job, BatchSize(size=sizes(job) or 1))
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
    """Runs of which only the queue's jobs are not done."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def state(self, name: str) -> State:
        return "missing" if name in self._names else "done"

    def state_now(self, name: str) -> State:
        return "partial"  # only called for runs whose process died

    def values(self, name: str) -> Mapping[str, float]:
        return {}

    def fail(self, spec: RunSpec, why: str) -> None:
        """Nothing is recorded."""


class _SimulatedCluster:
    """GPUs and cores, and how many of them are free."""

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
    """The end of a process; or, without jobs, the return of an interrupted process's resources."""

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
                self._advance()
        peak = {kind: has - self.cluster.least_free[kind] for kind, has in self.cluster.capacity.items()}
        outcome = Simulated(self.makespan, self.interruptions, self.lost, len(self.queue.failed))
        return Schedule(outcome, self.together, self.processes, self.work, peak)

    def _advance(self) -> None:
        """Advance the clock to the next event, or to the queue's next delayed run."""
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
        """Start a process and draw its end."""
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
        """Seconds still to be computed by a process, and seconds between two of its checkpoints."""
        seconds, checkpoint = 0.0, 0.0
        for job in batch:
            name, found = job.name, self.estimate(job, len(batch))
            assert found.seconds is not None  # promised by ``simulate``'s caller
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
