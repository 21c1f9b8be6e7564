"""The queue of a sweep: which run is executed next, and what becomes of it. It knows no Ray.

What is done, failed or on its way stands in the run directories, from which the next driver fills its own queue.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from rt_scale.scheduler.batching import Packs
from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.run import all_runs
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store

if TYPE_CHECKING:
    from rt_scale.scheduler.job import RunReport, View

HELD = 5.0
"""Seconds until a run that another driver executes is looked at again."""
BACKOFF = 2.0
"""Seconds before a run whose process died for the second time in a row is started again; doubled each time."""
LONGEST = 60.0
"""Seconds between two tries at most."""


class Queue:
    """Runs in an order that works: none before those that it starts from, each once, tried again where that helps.

    Args:
        tasks: the wanted runs, in the order in which they are wanted; those that they start from join by themselves.
        store: where they are.
        view: is told what becomes of them.
        concurrency: runs at a time, at most; None: any number.
        room: how many runs of that launch section the cluster holds together, at most.
        packs: which runs are executed by one process.
        given_up: why a run is not even tried, by its name; such a one counts as failed.
        clock: seconds, monotonic.

    Attributes:
        failed: name of a run -> why it has no result.
    """

    def __init__(
        self,
        tasks: Iterable[Job],
        store: Store,
        view: View,
        *,
        concurrency: int | None = None,
        room: Callable[[LaunchSpec], int | None] = lambda launch: None,
        packs: Packs | None = None,
        given_up: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._view, self._clock, self._room = store, view, clock, room
        self._concurrency, self._given_up = concurrency, given_up or {}
        self.packs = packs or Packs(lambda launch: 1)
        self._tasks: dict[str, Job] = {}
        self._order: dict[str, int] = {}
        self._blocked: dict[str, set[str]] = {}
        self._needed_by: dict[str, list[str]] = defaultdict(list)
        self._ready: dict[LaunchSpec, list[int]] = defaultdict(list)
        self._names: list[str] = []
        self._later: list[tuple[float, int]] = []
        self._live: dict[str, Job] = {}
        self._tries: dict[str, int] = {}
        self._began: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._over: dict[str, bool] = {}
        self.failed: dict[str, str] = {}
        self._wanted = {task.spec.name: task for task in tasks}
        for task in list(self._wanted.values()):
            self.add(task)

    def add(self, task: Job) -> None:
        """Put a run at the end, and what it starts from before it."""
        self._wanted.setdefault(task.spec.name, task)
        for spec in all_runs([task.spec]):
            if spec.name in self._tasks:
                continue
            if self._done(spec.name):
                if spec.name == task.spec.name:
                    self._find(task)
                continue
            wanted = self._wanted.get(spec.name)
            if wanted is None:
                self._view.added(1)
            self._enter(wanted or Job(f"{spec.name} (to start from)", spec, task.launch))

    def _find(self, task: Job) -> None:
        """A wanted run is complete, as another driver or sweep computed it."""
        self._tasks[task.spec.name] = task
        result = self._store.run(task.spec).result() or {"last": {}}
        self._settle(task.spec.name, JobOutcome(JobState.DONE, values=result["last"]))

    def _enter(self, task: Job) -> None:
        name = task.spec.name
        self._tasks[name], self._order[name] = task, len(self._names)
        self._names.append(name)
        needs = {start.run.name for start in task.spec.starts} - {key for key, good in self._over.items() if good}
        self._blocked[name] = needs
        for need in needs:
            self._needed_by[need].append(name)
        if name in self._given_up:
            self._settle(name, JobOutcome(JobState.FAILED, self._given_up[name]))
            return
        lost = [need for need in needs if self._over.get(need) is False]
        if lost:
            self._give_up(name, _without(lost[0], self.failed[lost[0]]))
        elif not needs:
            self._make_ready(name)

    def _done(self, name: str) -> bool:
        if name not in self._over and self._store.status(name).state == "done":
            self._over[name] = True
        return self._over.get(name, False)

    def _make_ready(self, name: str) -> None:
        heapq.heappush(self._ready[self._tasks[name].launch], self._order[name])

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not (self._live or self._later or self.waiting)

    @property
    def waiting(self) -> bool:
        """Whether a run could be executed at once if there were room."""
        return any(self._ready.values())

    @property
    def live(self) -> Mapping[str, Job]:
        """What was taken and has not ended, by the name of the run."""
        return self._live

    def take(self) -> Job | None:
        """The run to execute now; None where there is none yet, or no room for one."""
        self._wake()
        if self._concurrency is not None and len(self._live) >= self._concurrency:
            return None
        open_ = [launch for launch, waiting in self._ready.items() if waiting and self._has_room(launch)]
        if not open_:
            return None
        name = self._names[heapq.heappop(self._ready[min(open_, key=lambda launch: self._ready[launch][0])])]
        self._live[name] = self._tasks[name]
        return self._tasks[name]

    def take_pack(self) -> list[Job]:
        """The runs that one process is to execute now; as :meth:`take`, with others that are packed with it."""
        first = self.take()
        if first is None:
            return []
        ready = self._ready[first.launch]
        waiting = (self._tasks[self._names[place]] for place in sorted(ready))
        room = None if self._concurrency is None else self._concurrency - len(self._live)
        beside = self.packs.beside(first, waiting, live=self._live, tries=self._tries, room=room)
        if beside:
            self._live |= {task.spec.name: task for task in beside}
            ready[:] = [place for place in ready if self._names[place] not in self._live]
            heapq.heapify(ready)
        return [first, *beside]

    def _has_room(self, launch: LaunchSpec) -> bool:
        room = self._room(launch)
        return room is None or sum(task.launch == launch for task in self._live.values()) < room

    def _wake(self) -> None:
        """Look again at what was put off until now; what another driver still executes is put off again."""
        while self._later and self._later[0][0] <= self._clock():
            name = self._names[heapq.heappop(self._later)[1]]
            self._store.run(name).refresh()
            status = self._store.status(name)
            if status.state == "done":
                self._settle(name, JobOutcome(JobState.DONE))
            elif status.state == "running":
                self._put_off(name, HELD)
            else:
                self._make_ready(name)

    def _put_off(self, name: str, seconds: float) -> None:
        heapq.heappush(self._later, (self._clock() + seconds, self._order[name]))

    def reported(self, name: str, report: RunReport) -> None:
        """A run that was taken is under way."""
        if report.began is not None:
            self._began[name] = report.began

    def ended(self, name: str, how: JobOutcome) -> None:
        """A run that was taken came to an end, good or bad, or is to be tried again."""
        task = self._live.pop(name)
        if how.state in FINAL:
            self._settle(name, how)
        elif how.state is JobState.RETURNED:
            if how.why:
                self._view.waiting(task.label, how.why, None)
            self._make_ready(name)
        elif how.state is JobState.LEASED_ELSEWHERE:
            self._view.waiting(task.label, how.why, HELD, held=True)
            self._put_off(name, HELD)
        else:
            self._try_again(name, task, how)

    def _try_again(self, name: str, task: Job, how: JobOutcome) -> None:
        """Runs that get on are started again for ever, as on spot machines; others a few times."""
        began = self._began.pop(name, -1)
        gets_on = began > self._reached.get(name, -1) and name in self._reached
        self._reached[name] = max(began, self._reached.get(name, -1))
        tries = self._tries[name] = 1 if gets_on else self._tries.get(name, 0) + 1
        if tries > task.launch.retries:
            why = f"{how.why}, {tries} times in a row without a new checkpoint."
            self._record(task, why)
            self._settle(name, JobOutcome(JobState.FAILED, why))
            return
        delay = min(LONGEST, BACKOFF * 2 ** (tries - 2)) if tries > 1 else 0.0
        self._view.waiting(task.label, f"{how.why}; try {tries + 1} of {task.launch.retries + 1}", delay or None)
        if delay:
            self._put_off(name, delay)
        else:
            self._make_ready(name)

    def _record(self, task: Job, why: str) -> None:
        """Leave the reason in the run's directory, as nobody else could."""
        run_dir = self._store.run(task.spec)
        with suppress(RtScaleError), run_dir.acquire():
            run_dir.fail({"reason": why, "time": time.time()})

    def _settle(self, name: str, how: JobOutcome) -> None:
        label = self._tasks[name].label
        self._over[name] = how.state is JobState.DONE
        if how.state is JobState.EARLY_STOPPED:
            self._view.stopped(label, how.why)
        elif how.state is JobState.FAILED:
            self.failed[name] = how.why
            self._view.finished(label, how.why)
        else:
            self._view.finished(label, None, how.values)
        for dependent in self._needed_by.pop(name, []):
            self._blocked[dependent].discard(name)
            if how.state is not JobState.DONE:
                self._give_up(dependent, _without(name, how.why))
            elif not self._blocked[dependent] and dependent not in self._over:
                self._make_ready(dependent)

    def _give_up(self, name: str, why: str) -> None:
        if name not in self._over:
            self._settle(name, JobOutcome(JobState.FAILED, why))


def _without(name: str, why: str) -> str:
    return f"The run {name}, which it starts from, has no result: {why}"
