"""What the ``explore`` sections of sweeps add to their queue: rules that end runs early, searches that add runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from rt_scale.ray_backend.tune_rules import EarlyStopping, Rule, build_rule
from rt_scale.scheduler.early_stopping import StoppedRun, StoppedRuns, curve
from rt_scale.scheduler.job import Job, JobOutcome
from rt_scale.scheduler.queue import Queue
from rt_scale.scheduler.search import Search, known_points
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store, SweepDir


class _Telling(StoppedRuns):
    """Tells a run at once that it was ended, and keeps that."""

    def __init__(self, spec: SweepSpec, folder: SweepDir, tell: Callable[[str, str], None]) -> None:
        assert spec.explore is not None  # who asks explores
        super().__init__(spec.explore, folder)
        self._tell = tell

    def record(self, name: str, run: StoppedRun) -> None:
        """Keep it, and tell the run."""
        super().record(name, run)
        self._tell(name, run.reason)


class Exploration:
    """The rules and searches of the sweeps of one queue; of plain grids there are none.

    Args:
        sweeps: with their grids' points.
        store: where they are kept.
        failed: names of runs that are not tried again.
        room: how many runs of a launch section the cluster holds together.
        added: is told by how many runs more, or fewer, than was known a search comes to; each counts from the start,
            and not all points are runs of their own.

    Attributes:
        tell: is called with the name of a run that is to end and the reason; set by who can reach it.
    """

    def __init__(
        self,
        sweeps: Sequence[tuple[SweepSpec, Sequence[Point]]],
        store: Store,
        failed: Collection[str],
        room: Callable[[LaunchSpec], int],
        added: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.tell: Callable[[str, str], None] = lambda name, reason: None
        self._room, self._several, self._added, self._store = room, len(sweeps) > 1, added, store
        self._counted = {
            point.spec.name for spec, points in sweeps for point in known_points(spec, points, store)
        }  # fmt: skip
        self._rules: dict[str, Rule] = {}
        self._searches: dict[str, tuple[SweepSpec, Search]] = {}
        for spec, points in sweeps:
            explore = spec.explore
            if explore is None:
                continue
            stopped = _Telling(spec, store.sweep(spec.name), lambda name, reason: self.tell(name, reason))
            if (rule := build_rule(explore, stopped)) is not None:
                self._rules[spec.name] = rule
                for point in points:
                    rule.remember(point.spec.name, curve(explore, store.run(point.spec)))
            if explore.search is not None:
                self._searches[spec.name] = spec, Search(spec, store, failed)

    def scheduler(self) -> EarlyStopping:
        """For ``TuneConfig(scheduler=...)``."""
        return EarlyStopping(self._rules)

    def refill(self, queue: Queue) -> None:
        """Sample points where the queue has nothing for a free slot; so each is sampled as late as can be."""
        for spec, search in self._searches.values():
            while not queue.waiting and _of(spec.name, queue.live.values()) < self._room(spec.launch):
                left = search.left
                point = search.next()
                new = {point.spec.name} - self._counted if point else set()
                self._counted |= new
                if more := len(new) - (left - search.left):
                    self._added(more)
                if point is None:
                    break
                label = f"{spec.name}: {point.label}" if self._several else point.label
                task = Job(label, point.spec, spec.launch, spec)
                queue.add(task)
                if (result := self._store.run(point.spec).result()) is not None:  # of another sweep
                    self.ended(task, JobOutcome("done", values=result.last))

    def ended(self, task: Job, how: JobOutcome) -> None:
        """A run came to an end; a search learns from it."""
        if task.sweep is None or task.sweep.name not in self._searches or how.state not in _FINAL:
            return
        spec, search = self._searches[task.sweep.name]
        assert spec.explore is not None  # it searches
        search.ended(task.spec.name, how.values.get(spec.explore.metric) if how.state != "failed" else None)


_FINAL = {"done", "failed", "settled"}


def _of(sweep: str, tasks: Iterable[Job]) -> int:
    return sum(task.sweep is not None and task.sweep.name == sweep for task in tasks)
