"""How long jobs take: the real queue on a simulated clock, on machines that may be interrupted."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from rt_scale.scheduler.job import Job, JobOutcome, JobState, RunReport, View
from rt_scale.scheduler.queue import Queue
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize
from rt_scale.store.run_dir import State
from rt_scale.store.usage import Unit

if TYPE_CHECKING:
    from rt_scale.plan.estimate import Estimate

REPLACEMENT = 120.0
"""Seconds until an interrupted machine is replaced (assumed)."""
HOPELESS = 5.0
"""At this many expected interruptions between two checkpoints, a run practically never ends (1 chance in 150)."""
ROUNDING = 1e-9
"""Tolerance of sums of fractions of a GPU."""
DONE, INTERRUPTED = JobOutcome(JobState.DONE), JobOutcome(JobState.PREEMPTED, "interrupted")
PARTS = 2**30
"""Steps of a simulated run, in which its progress is reported to the queue."""


@dataclass(frozen=True)
class Simulated:
    """How a simulated queue came out.

    Attributes:
        makespan: seconds until the last run was done.
        interruptions: number of interrupted processes.
        lost: seconds that were computed twice.
        given_up: runs interrupted ``queue.LOSSES`` times in a row without a new checkpoint, and those that start from
            them.
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
    """

    outcome: Simulated
    together: Mapping[str, int]
    processes: int
    work: Mapping[Unit, float]


NOTHING = Schedule(Simulated(0.0, 0, 0.0, 0), {}, 0, {})
"""The schedule of an empty queue."""


def occupied(launch: LaunchSpec) -> tuple[Unit, float]:
    """Unit and number of the GPUs or cores that a run takes with all of its workers."""
    return "gpu" if launch.gpus else "cpu", (launch.gpus or launch.cpus) * launch.workers


class Machines(Protocol):
    """What simulated runs are executed on."""

    def refuse_misfit(self, launch: LaunchSpec) -> None:
        """Refuse a run that never fits (InputError)."""

    def at_once(self, launch: LaunchSpec) -> int:
        """As ``scheduler.queue.Cluster``."""

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        """As ``scheduler.queue.Cluster``."""

    def occupy(self, launch: LaunchSpec, now: float) -> tuple[float, Sequence[int]]:
        """Take room for a run: when it can start, and where it is, for ``free``."""

    def free(self, launch: LaunchSpec, where: Sequence[int], now: float) -> None:
        """Give the room back."""


class Capacity:
    """GPUs and cores that are there all the time, wherever they are; ``peak``: most in use at once, by kind."""

    def __init__(self, capacity: Mapping[Unit, float]) -> None:
        self._has, self._free = capacity, dict(capacity)
        self.peak: dict[Unit, float] = dict.fromkeys(capacity, 0.0)

    def refuse_misfit(self, launch: LaunchSpec) -> None:
        kind, units = occupied(launch)
        there = self._has.get(kind, 0)
        if units > there:
            what, option = ("GPUs", "--gpus") if kind == "gpu" else ("CPU cores", "--cpus")
            raise InputError(
                f"A run asks for {units:g} {what}, but the plan is for {there:g}. Plan for at least "
                f"{math.ceil(units)} (rt-scale plan {option}), or lower launch.{kind}s in the sweep file."
            )

    def at_once(self, launch: LaunchSpec) -> int:
        kind, units = occupied(launch)
        return max(1, int(self._has[kind] / units + ROUNDING))

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        kind, units = occupied(launch)
        return units <= self._free[kind] + ROUNDING

    def occupy(self, launch: LaunchSpec, now: float) -> tuple[float, Sequence[int]]:
        kind, units = occupied(launch)
        self._free[kind] -= units
        self.peak[kind] = max(self.peak[kind], self._has[kind] - self._free[kind])
        return now, ()

    def free(self, launch: LaunchSpec, where: Sequence[int], now: float) -> None:
        kind, units = occupied(launch)
        self._free[kind] += units


def simulate(
    jobs: Mapping[str, Job],
    estimate: Callable[[Job, int], Estimate],
    machines: Machines,
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
        machines: unused ones.
        concurrency: most runs at a time; None: any number.
        rate: interruptions per hour of each process (a Poisson process).
        generator: draws the interruptions; needed if ``rate`` > 0.
        replacement: seconds until an interrupted machine is replaced.
        sizes: for ``launch.pack: auto``, the measured best batch size; None: not measured, so 1.

    Raises:
        InputError: a run does not fit on the machines, or at that rate practically never ends.
    """
    if rate and generator is None:
        raise ValueError("interruptions are random: give a generator")
    for launch in {job.launch for job in jobs.values()}:
        machines.refuse_misfit(launch)
    simulation = _Simulation(jobs, estimate, machines, concurrency, rate, generator, replacement)
    for job in jobs.values():
        if job.launch.pack == "auto" and simulation.queue.known(job) is None:
            simulation.queue.learn(job, BatchSize(size=sizes(job) or 1))
    return simulation.run()


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

    def executed_by(self, name: str) -> str:
        return ""

    def fail(self, spec: RunSpec, why: str) -> None:
        """Nothing is recorded."""


class _Event(NamedTuple):
    """The end of a process; or, without jobs, the return of an interrupted process's resources."""

    jobs: Sequence[Job]
    how: JobOutcome
    launch: LaunchSpec
    freed: Sequence[int] | None


class _Simulation:
    def __init__(
        self,
        jobs: Mapping[str, Job],
        estimate: Callable[[Job, int], Estimate],
        machines: Machines,
        concurrency: int | None,
        rate: float,
        generator: np.random.Generator | None,
        replacement: float,
    ) -> None:
        self.estimate, self.rate, self.generator, self.replacement = estimate, rate, generator, replacement
        self.now, self.issued = 0.0, 0
        self.machines = machines
        self.queue = Queue(
            jobs.values(), _SimulatedRuns(jobs.keys()), View(), machines,
            concurrency=concurrency, clock=lambda: self.now,
        )  # fmt: skip
        self.events: list[tuple[float, int, _Event]] = []
        self.left: dict[str, float] = {}
        self.together: dict[str, int] = {}
        self.work: dict[Unit, float] = {}
        self.makespan, self.processes, self.interruptions, self.lost = 0.0, 0, 0, 0.0

    def run(self) -> Schedule:
        while not self.queue.finished:
            while batch := self.queue.take():
                self._start(batch)
            if not self.queue.finished:
                self._advance()
        outcome = Simulated(self.makespan, self.interruptions, self.lost, len(self.queue.failed))
        return Schedule(outcome, self.together, self.processes, self.work)

    def _advance(self) -> None:
        """Advance the clock to the next event, or to the queue's next delayed run."""
        wakes = self.queue.wakes
        if wakes is not None and (not self.events or wakes < self.events[0][0]):
            self.now = wakes
            return
        self.now, _, event = heapq.heappop(self.events)
        if event.freed is not None:
            self.machines.free(event.launch, event.freed, self.now)
        for job in event.jobs:
            self.queue.ended(job.name, event.how)
        if event.how is DONE:
            self.makespan = self.now

    def _start(self, batch: Sequence[Job]) -> None:
        """Start a process and draw its end."""
        launch = batch[0].launch
        seconds, checkpoint = self._length(batch)
        self.processes += 1
        begin, where = self.machines.occupy(launch, self.now)
        until = self.generator.exponential(3600 / self.rate) if self.rate and self.generator is not None else math.inf
        if until >= seconds:
            kind, units = occupied(launch)
            self.work[kind] = self.work.get(kind, 0.0) + seconds * units
            self._at(begin + seconds, _Event(batch, DONE, launch, where))
            return
        kept = checkpoint * (until // checkpoint) if math.isfinite(checkpoint) else 0.0
        for job in batch:
            self.queue.reported(job.name, RunReport(began=int((1 - self.left[job.name]) * PARTS)))
            self.left[job.name] *= 1 - kept / seconds
        self.interruptions += 1
        self.lost += until - kept
        self._at(begin + until, _Event(batch, INTERRUPTED, launch, None))
        self._at(begin + until + self.replacement, _Event((), INTERRUPTED, launch, where))

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
