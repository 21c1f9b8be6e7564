"""How long a queue of runs takes: simulated, since runs wait for each other and spot machines go away."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rt_scale.ray_backend.resources import Kind
from rt_scale.spec.errors import InputError

Event = Literal["done", "interrupted", "replaced"]

REPLACEMENT = 120.0
"""Seconds, assumed, until a machine that was taken away is replaced."""
HOPELESS = 5.0
"""Interruptions expected between two checkpoints from which on a run practically never ends (1 chance in 150)."""
ROUNDING = 1e-9
"""Of sums of fractions of a GPU."""


@dataclass(frozen=True)
class SimulatedJob:
    """A run, or runs that one process trains together, as the simulation sees them.

    Attributes:
        name: of the run; of several, of the first.
        seconds: that it takes undisturbed, > 0.
        kind: what it occupies: ``gpu`` or ``cpu``.
        units: how many of those, > 0; a fraction shares one GPU.
        after: names of the tasks that must be done first; those that there are none of are done already.
        checkpoint: seconds between two checkpoints, > 0.
        runs: how many it is.
    """

    name: str
    seconds: float
    kind: Kind
    units: float
    after: tuple[str, ...] = ()
    checkpoint: float = math.inf
    runs: int = 1


@dataclass(frozen=True)
class Simulated:
    """What became of a queue.

    Attributes:
        makespan: seconds until the last run was done.
        interruptions: how often a run was interrupted.
        lost: seconds of computing that had to be done again.
    """

    makespan: float
    interruptions: int
    lost: float


def simulate(
    tasks: Sequence[SimulatedJob],
    capacity: Mapping[Kind, float],
    *,
    concurrency: int | None = None,
    rate: float = 0.0,
    generator: np.random.Generator | None = None,
    replacement: float = REPLACEMENT,
) -> Simulated:
    """Work ``tasks`` off, in their order as far as they fit and what they wait for is done.

    An interrupted run loses what it did since its last checkpoint and is first in the queue again; what it
    occupied comes back after ``replacement`` seconds.

    Args:
        tasks: in the order in which they are wanted.
        capacity: units of each kind.
        concurrency: runs at a time, at most, as no task has more of; None: any number.
        rate: interruptions an hour of each running run (a Poisson process).
        generator: draws the interruptions; needed where ``rate`` is above 0.
        replacement: seconds that a machine which was taken away is missing for.

    Raises:
        InputError: a task that never fits, or at that rate practically never ends.
    """
    if rate and generator is None:
        raise ValueError("interruptions are drawn: give their generator")
    for task in tasks:
        _check(task, capacity, rate)
    return _Queue(tasks, capacity, concurrency, rate, generator, replacement).run()


def _check(task: SimulatedJob, capacity: Mapping[Kind, float], rate: float) -> None:
    there = capacity.get(task.kind, 0)
    if task.units > there:
        what, option = ("GPUs", "--gpus") if task.kind == "gpu" else ("CPU cores", "--cpus")
        raise InputError(
            f"A run asks for {task.units:g} {what}, but the plan is for {there:g}. Plan for at least "
            f"{math.ceil(task.units)} (rt-scale plan {option}), or lower launch.{task.kind}s in the sweep file."
        )
    segment = min(task.checkpoint, task.seconds)
    if rate * segment / 3600 > HOPELESS:
        raise InputError(
            f"At {rate:g} interruptions an hour a run would practically never end: {segment:,.0f} s pass between two "
            f"of its checkpoints. Give --rate at most {HOPELESS * 3600 / segment:,.1f}, or plan without spot machines."
        )


def _asks(task: SimulatedJob) -> tuple[Kind, float, int]:
    return task.kind, task.units, task.runs


class _Queue:
    """The state of one simulation; events are (time, order of issue, what happens, to which run)."""

    def __init__(
        self,
        tasks: Sequence[SimulatedJob],
        capacity: Mapping[Kind, float],
        concurrency: int | None,
        rate: float,
        generator: np.random.Generator | None,
        replacement: float,
    ) -> None:
        self.rate, self.generator, self.replacement = rate, generator, replacement
        self.free = dict(capacity)
        self.room = math.inf if concurrency is None else concurrency
        self.tasks = list(tasks)
        self.rank = {task.name: position for position, task in enumerate(tasks)}
        self.left = [task.seconds for task in tasks]
        self.waits = [{self.rank[name] for name in task.after if name in self.rank} for task in tasks]
        self.needed_by: list[list[int]] = [[] for _ in tasks]
        # Runs that ask for the same wait in one heap, so that a long queue is not looked through at every event.
        self.ready: dict[tuple[Kind, float, int], list[int]] = {_asks(task): [] for task in tasks}
        self.events: list[tuple[float, int, Event, int]] = []
        self.issued, self.interruptions, self.lost = 0, 0, 0.0
        for rank, waits in enumerate(self.waits):
            for before in waits:
                self.needed_by[before].append(rank)
            if not waits:
                self._wait(rank)

    def run(self) -> Simulated:
        makespan = 0.0
        self._start(0.0)
        while self.events:
            now, _, event, rank = heapq.heappop(self.events)
            if event != "replaced":
                self.room += self.tasks[rank].runs
            if event == "interrupted":
                self._wait(rank)
            else:
                self.free[self.tasks[rank].kind] += self.tasks[rank].units
            if event == "done":
                makespan = now
                self._release(rank)
            self._start(now)
        return Simulated(makespan, self.interruptions, self.lost)

    def _wait(self, rank: int) -> None:
        heapq.heappush(self.ready[_asks(self.tasks[rank])], rank)

    def _release(self, rank: int) -> None:
        for other in self.needed_by[rank]:
            self.waits[other].discard(rank)
            if not self.waits[other]:
                self._wait(other)

    def _start(self, now: float) -> None:
        """Start what fits, in the queue's order; what does not fit lets later ones pass."""
        while True:
            fitting = [
                heap
                for (kind, units, runs), heap in self.ready.items()
                if heap and units <= self.free[kind] + ROUNDING and runs <= self.room
            ]
            if not fitting:
                return
            rank = heapq.heappop(min(fitting, key=lambda heap: heap[0]))
            self.free[self.tasks[rank].kind] -= self.tasks[rank].units
            self.room -= self.tasks[rank].runs
            self._issue(now, rank)

    def _issue(self, now: float, rank: int) -> None:
        """Decide how this attempt at a run ends."""
        task, left = self.tasks[rank], self.left[rank]
        until = self.generator.exponential(3600 / self.rate) if self.rate and self.generator is not None else math.inf
        if until >= left:
            self._at(now + left, "done", rank)
            return
        kept = task.checkpoint * (until // task.checkpoint) if math.isfinite(task.checkpoint) else 0.0
        self.left[rank] = left - kept
        self.interruptions += 1
        self.lost += until - kept
        self._at(now + until, "interrupted", rank)
        self._at(now + until + self.replacement, "replaced", rank)

    def _at(self, time: float, event: Event, rank: int) -> None:
        self.issued += 1
        heapq.heappush(self.events, (time, self.issued, event, rank))
