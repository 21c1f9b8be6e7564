"""The queue of a sweep: which runs are executed next, and how they came out.

It uses cluster, clock and store through small interfaces, so that ``plan`` can simulate it. It keeps no files: the next
driver fills its queue from the run directories.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState, RunReport, View
from rt_scale.spec.batching import batch_key
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize
from rt_scale.store.run_dir import State
from rt_scale.store.store import Store

LOOK_AGAIN = 5.0
"""Seconds between two looks at a run that another driver executes."""
BACKOFF = 2.0
"""Seconds before a run is restarted whose process died twice in a row; doubled with each further death."""
LONGEST = 60.0
"""Most seconds between two tries."""
MOST = 16
"""Largest measured batch size, in runs."""
LOSSES = 10
"""After so many losses of its node in a row without a new checkpoint, a run is taken to be their cause."""
DEATHS = 2
"""After so many deaths of its process in a row, a run is executed alone."""


class Cluster(Protocol):
    """What executes jobs."""

    def at_once(self, launch: LaunchSpec) -> int:
        """How many jobs of that section run at once, each with all of its workers; at least 1."""

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        """Whether another process of that section can start beside the ``running`` ones, counted by section."""


class Runs(Protocol):
    """What keeps runs."""

    def state(self, name: str) -> State:
        """State of the run of that name."""

    def state_now(self, name: str) -> State:
        """The same, refreshed first: another driver may have changed the run."""

    def values(self, name: str) -> Mapping[str, float]:
        """The last measurements of a run that is done."""

    def executed_by(self, name: str) -> str:
        """Which driver executed a run that is done."""

    def fail(self, spec: RunSpec, why: str) -> None:
        """Record why a run is not retried."""


class StoredRuns:
    """The runs of a store; records a failure in the run's directory unless another process holds it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def state(self, name: str) -> State:
        return self._store.status(name).state

    def state_now(self, name: str) -> State:
        self._store.run(name).refresh()
        return self.state(name)

    def values(self, name: str) -> Mapping[str, float]:
        result = self._store.run(name).result()
        return {} if result is None else result.last

    def executed_by(self, name: str) -> str:
        record = self._store.run(name).record()
        host = record.attempts[-1].host if record and record.attempts else None
        return f"another driver on {host}" if host else "another driver"

    def fail(self, spec: RunSpec, why: str) -> None:
        run_dir = self._store.run(spec)
        with suppress(RtScaleError), run_dir.acquire():
            run_dir.fail({"reason": why, "time": time.time()})


@dataclass(slots=True, eq=False)
class _Entry:
    """A job in the queue.

    Attributes:
        place: in the queue.
        section: the jobs of its launch section.
        needs: names of the runs that it waits for.
        deaths, losses: how often in a row its process died, and its node was lost.
        elsewhere: whether another driver executed it when the queue looked last.
        began, reached: first step of its newest process, and the highest first step of the earlier ones.
        leader: name of the first run of the process that executes it, else empty.
    """

    job: Job
    place: int
    section: _Section
    needs: set[str]
    deaths: int = 0
    losses: int = 0
    elsewhere: bool = False
    began: int = -1
    reached: int = -1
    leader: str = ""


@dataclass(slots=True)
class _Section:
    """The jobs of one launch section.

    Attributes:
        ready: shape -> heap of the places of jobs that wait only for room; those of shape "" run alone.
        leaders: number of jobs in each running process, by its leader.
    """

    launch: LaunchSpec
    ready: dict[str, list[int]] = field(default_factory=dict)
    leaders: Counter[str] = field(default_factory=Counter)

    @property
    def first(self) -> tuple[int, str] | None:
        """Place and shape of the first ready job, if any."""
        return min(((places[0], shape) for shape, places in self.ready.items() if places), default=None)


class Queue:
    """Runs in dependency order, each once, retried if its process died.

    Args:
        jobs: the runs in order of priority; those that they start from are added.
        concurrency: most runs at a time; None: any number.
        given_up: name of a run -> why it is not tried; it counts as failed.
        leave_others: whether the queue is finished once other drivers execute all that could start; see ``left``.
        may_start: whether a run may start now; one that once may not is never asked for again.
        clock: seconds, monotonic.

    Attributes:
        late: names of runs that were not to be started.
        live: running jobs by the name of the run.
        failed: name of a run -> why it has no result.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        runs: Runs,
        view: View,
        cluster: Cluster,
        *,
        concurrency: int | None = None,
        given_up: Mapping[str, str] | None = None,
        leave_others: bool = False,
        may_start: Callable[[Job], bool] = lambda job: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs, self._view, self._cluster, self._clock = runs, view, cluster, clock
        self._concurrency, self._given_up, self._leave_others = concurrency, given_up or {}, leave_others
        self._measured: dict[tuple[LaunchSpec, str], BatchSize] = {}
        self._may_start = may_start
        self.live: dict[str, Job] = {}
        self.late: set[str] = set()
        self.failed: dict[str, str] = {}
        self._entries: list[_Entry] = []
        self._by_name: dict[str, _Entry] = {}
        self._sections: dict[LaunchSpec, _Section] = {}
        self._needed_by: dict[str, list[_Entry]] = {}
        self._later: list[tuple[float, int]] = []
        self._over: dict[str, JobOutcome] = {}
        self._untried: dict[str, str] = {}
        self._wanted = {job.name: job for job in jobs}
        for job in list(self._wanted.values()):
            self.add(job)

    def add(self, job: Job) -> None:
        """Append a run, after those that it starts from."""
        self._wanted.setdefault(job.name, job)
        for spec in all_runs([job.spec]) if job.needs else (job.spec,):
            name = spec.name
            if name in self._by_name:
                continue
            if name not in self._over and self._runs.state(name) == "done":
                self._over[name] = JobOutcome(JobState.DONE)
            if self._is_done(name):
                if name == job.name:  # another driver or sweep computed it
                    self._view.finished(job.label, None, self._runs.values(name), self._runs.executed_by(name))
                continue
            wanted = self._wanted.get(name)
            if wanted is None:
                self._view.added(1)
            self._enter(wanted or Job(f"{name} (needed first)", spec, job.launch))

    def _enter(self, job: Job) -> None:
        name = job.name
        section = self._sections.get(job.launch)
        if section is None:
            section = self._sections[job.launch] = _Section(job.launch)
        needs = {need for need in job.needs if not self._is_done(need)}
        entry = self._by_name[name] = _Entry(job, len(self._entries), section, needs)
        self._entries.append(entry)
        for need in needs:
            self._needed_by.setdefault(need, []).append(entry)
        if name in self._given_up:
            self._settle(entry, JobOutcome(JobState.FAILED, self._given_up[name]))
            return
        lost = [need for need in needs if need in self._over]
        if lost:
            self._give_up(entry, lost[0])
        elif not needs:
            self._make_ready(entry)

    def _is_done(self, name: str) -> bool:
        return name in self._over and self._over[name].state is JobState.DONE

    def _make_ready(self, entry: _Entry) -> None:
        job = entry.job
        # A run that kills its process must not take others along.
        alone = job.launch.pack == 1 or entry.deaths >= DEATHS or job.spec.alone_because
        heapq.heappush(entry.section.ready.setdefault("" if alone else batch_key(job.spec), []), entry.place)

    def learn(self, job: Job, measured: BatchSize) -> None:
        """Record how many runs of the shape of ``job`` to train together, for ``launch.pack: auto``."""
        self._measured[job.launch, batch_key(job.spec)] = measured

    def known(self, job: Job) -> BatchSize | None:
        """What was measured for runs of the shape of ``job``, if anything."""
        return self._measured.get((job.launch, batch_key(job.spec)))

    @property
    def finished(self) -> bool:
        """Whether nothing is running, delayed or waiting."""
        return not (self.live or self._later or self.waiting)

    @property
    def left(self) -> set[str]:
        """Names of the runs without an outcome: of a finished queue, those left to other drivers."""
        return self._by_name.keys() - self._over.keys()

    @property
    def waiting(self) -> bool:
        """Whether a run waits only for room."""
        return any(section.first for section in self._sections.values())

    @property
    def resting(self) -> bool:
        """Whether no process is worth keeping: all runs execute, are delayed, need one of those, or wait for workers.

        A process kept for the next run has resources that workers of another run may wait for, for ever.
        """
        if self.wakes is not None and self.wakes <= self._clock():
            return False
        several = any(job.launch.workers > 1 for job in self.live.values())
        return not any(
            (section.launch.workers == 1 and not (several and self._room <= 0)) or self._has_room(section)
            for section in self._sections.values()
            if section.first
        )

    @property
    def _room(self) -> float:
        """How many more runs ``concurrency`` allows."""
        return math.inf if self._concurrency is None else self._concurrency - len(self.live)

    def _has_room(self, section: _Section) -> bool:
        running = {each.launch: len(each.leaders) for each in self._sections.values()}
        return self._room > 0 and self._cluster.has_room(section.launch, running)

    @property
    def wakes(self) -> float | None:
        """When, by the clock, the next delayed run is due, if any."""
        return self._later[0][0] if self._later else None

    def take(self) -> list[Job]:
        """The jobs that one process executes now; empty if none is ready or there is no room."""
        self.wake()
        self._put_aside()
        heads = [
            (*section.first, section)
            for section in self._sections.values()
            if section.first and self._has_room(section)
        ]
        if not heads:
            return []
        place, shape, section = min(heads, key=lambda head: head[0])
        leader, places = self._entries[place].job, section.ready[shape]
        size = self._batch_size(leader, section, min(len(places), self._room)) if shape else 1
        batch = [self._entries[heapq.heappop(places)] for _ in range(size)]
        for entry in batch:
            entry.leader = leader.name
            section.leaders[entry.leader] += 1
            self.live[entry.job.name] = entry.job
        return [entry.job for entry in batch]

    def _put_aside(self) -> None:
        """Take those of the next runs out of the queue that may no longer start."""
        for section in self._sections.values():
            for places in section.ready.values():
                while places and not self._may_start(self._entries[places[0]].job):
                    self.late.add(self._entries[heapq.heappop(places)].job.name)

    def _batch_size(self, leader: Job, section: _Section, alike: float) -> int:
        """How many of ``alike`` jobs, that may start now, one process executes; free processes get equal numbers."""
        most = leader.launch.pack
        if most == "auto":
            measured = self.known(leader)
            most = MOST if measured is None else measured.size
        free = self._cluster.at_once(section.launch) - len(section.leaders)
        return min(most, math.ceil(alike / max(1, free)))

    def wake(self) -> None:
        """Check the delayed runs that are due; one that another driver still executes is delayed again."""
        while self._later and self._later[0][0] <= self._clock():
            entry = self._entries[heapq.heappop(self._later)[1]]
            if self._is_elsewhere(entry):
                self._put_off(entry, LOOK_AGAIN)
        if self._leave_others and not (self.live or self.waiting):
            self._leave()

    def _leave(self) -> None:
        """If other drivers executed all delayed runs, look a last time, and leave those that they still execute."""
        delayed = [self._entries[place] for _, place in sorted(self._later)]
        if all(entry.elsewhere for entry in delayed):
            self._later.clear()
            theirs = [entry for entry in delayed if self._is_elsewhere(entry)]
            if self.waiting:
                for entry in theirs:
                    self._put_off(entry, LOOK_AGAIN)

    def _is_elsewhere(self, entry: _Entry) -> bool:
        """Look at a delayed run: whether another driver executes it; if not, it is settled or may start."""
        theirs, state = entry.elsewhere, self._runs.state_now(entry.job.name)
        entry.elsewhere = state == "running"
        if state == "done":
            name = entry.job.name
            by = self._runs.executed_by(name) if theirs else ""
            self._settle(entry, JobOutcome(JobState.DONE, values=self._runs.values(name)), by)
        elif not entry.elsewhere:
            self._make_ready(entry)
        return entry.elsewhere

    def _put_off(self, entry: _Entry, seconds: float) -> None:
        heapq.heappush(self._later, (self._clock() + seconds, entry.place))

    def reported(self, name: str, report: RunReport) -> None:
        """Note the first step of a running job."""
        if report.began is not None:
            self._by_name[name].began = report.began

    def ended(self, name: str, how: JobOutcome) -> None:
        """A running job ended; it may be retried."""
        entry, job = self._by_name[name], self.live.pop(name)
        section = entry.section
        section.leaders[entry.leader] -= 1
        if not section.leaders[entry.leader]:
            del section.leaders[entry.leader]
        if how.state in FINAL:
            self._settle(entry, how)
        elif how.state is JobState.RETURNED:
            if how.why:
                self._view.waiting(job.label, how.why, None)
            self._make_ready(entry)
        elif how.state is JobState.LEASED_ELSEWHERE:
            entry.elsewhere = True
            self._view.waiting(job.label, how.why, LOOK_AGAIN, leased_elsewhere=True)
            self._put_off(entry, LOOK_AGAIN)
        else:
            self._try_again(entry, how)

    def _try_again(self, entry: _Entry, how: JobOutcome) -> None:
        """Retry without limit while checkpoints advance, else ``launch.retries`` times, or ``LOSSES`` times.

        The loss of a node costs no try; but a run that never gets on may be what ends its nodes.
        """
        if entry.began > entry.reached:  # a newer checkpoint than those of the processes before
            entry.deaths = entry.losses = 0
        entry.reached, entry.began = max(entry.began, entry.reached), -1
        job, preempted = entry.job, how.state in (JobState.PREEMPTED, JobState.DEVICE_LOST)
        if preempted:
            entry.losses += 1
        else:
            entry.deaths += 1
        times, most = (entry.losses, LOSSES) if preempted else (entry.deaths, job.launch.retries + 1)
        if times >= most:
            why = f"{how.why}, {times} times in a row without a new checkpoint."
            self._runs.fail(job.spec, why)
            self._settle(entry, JobOutcome(JobState.FAILED, why))
            return
        delay = min(LONGEST, BACKOFF * 2 ** (times - 2)) if times > 1 else 0.0
        if preempted:
            self._view.preempted(job.label, how.why, delay or None)
        else:
            self._view.waiting(job.label, f"{how.why}; try {times + 1} of {most}", delay or None)
        if delay:
            self._put_off(entry, delay)
        else:
            self._make_ready(entry)

    def give_up(self, launch: LaunchSpec, why: str) -> None:
        """Try no more runs of a launch section; those that are live stay so."""
        section = self._sections[launch]
        section.ready.clear()
        self._later = [later for later in self._later if self._entries[later[1]].section is not section]
        heapq.heapify(self._later)
        for entry in self._entries:
            if entry.section is section and entry.job.name not in self._over and entry.job.name not in self.live:
                self._settle(entry, JobOutcome(JobState.FAILED, why))

    def _settle(self, entry: _Entry, how: JobOutcome, by: str = "") -> None:
        name, label = entry.job.name, entry.job.label
        self._over[name] = how
        if how.state is JobState.EARLY_STOPPED:
            self._view.stopped(label, how.why)
        elif how.state is JobState.FAILED:
            self.failed[name] = how.why
            self._view.finished(label, how.why)
        else:
            self._view.finished(label, None, how.values, by)
        for dependent in self._needed_by.pop(name, ()):
            dependent.needs.discard(name)
            if how.state is not JobState.DONE:
                self._give_up(dependent, name)
            elif not dependent.needs and dependent.job.name not in self._over:
                self._make_ready(dependent)

    def _give_up(self, entry: _Entry, lost: str) -> None:
        """Do not try a run that needs ``lost``; of a chain of runs all name the one that failed."""
        if entry.job.name in self._over:
            return
        if lost not in self._untried:
            self._untried[lost] = f"The run {lost}, which it needs, has no result: {self._over[lost].why}"
        self._untried[entry.job.name] = self._untried[lost]
        self._settle(entry, JobOutcome(JobState.FAILED, self._untried[lost]))
