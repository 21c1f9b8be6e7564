"""What the ``explore`` sections of sweeps add to a queue: rules that end runs early, searches that add runs.

A run that Tune stops itself is caught in the middle of its report: its thread, with its lease, waits there until Tune
has another trial for that process, and is killed where it then takes more than 2 s to end; the trial that wanted the
process is lost. So the decision is written down, Tune is told to go on, and the run reads it when its report returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rt_scale.scheduler.early_stopping import StoppedRun, StoppedRuns, curve
from rt_scale.scheduler.job import Job, JobOutcome
from rt_scale.scheduler.queue import Queue
from rt_scale.scheduler.search import Search, known_points
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store, SweepDir

TIME, VALUE = "time", "value"
LONGEST = 2**40
"""Rungs are made up to here; a rung that no run reaches decides nothing."""


class _Run(NamedTuple):
    """A run as Tune's schedulers know a trial; of equal names, one run, in whatever trial or driver."""

    trial_id: str


class Rule:
    """One of Tune's rules, as it judges the runs of one sweep; what it ends is written down.

    Args:
        explore: the sweep's section, which has ``stop``.
        scheduler: Tune's scheduler on the attributes ``time`` and ``value``.
        stopped: where it is written down.
    """

    def __init__(self, explore: ExploreSpec, scheduler: TrialScheduler, stopped: StoppedRuns) -> None:
        self._explore, self.scheduler, self._stopped = explore, scheduler, stopped
        self._latest: dict[str, float] = {}
        self._ended: set[str] = set()

    def hear(self, run: str, step: int, last: bool, time: float, value: float) -> None:
        """Judge what a run reports: the content of ``Watch.report``."""
        if self._judge(run, time, value) == TrialScheduler.STOP and not last:
            self._ended.add(run)
            self._stopped.record(run, StoppedRun(step, value, self._reason(time, value)))

    def remember(self, run: str, curve: Iterable[tuple[float, float]]) -> None:
        """Let the rule know a run from before this driver, which others are compared with.

        Args:
            run: its name.
            curve: pairs of time and value, as ``stopped.curve`` reads them.
        """
        for time, value in curve:
            self._judge(run, time, value)

    def _judge(self, run: str, time: float, value: float) -> str:
        # A run that went on from a checkpoint measures some things again; one that was ended is judged no more.
        if run in self._ended or time <= self._latest.get(run, -1.0):
            return str(TrialScheduler.CONTINUE)
        known = _Run(run)
        if run not in self._latest:
            self.scheduler.on_trial_add(None, known)
        self._latest[run] = time
        return str(self.scheduler.on_trial_result(None, known, {TIME: time, VALUE: value}))

    def _reason(self, time: float, value: float) -> str:
        stop = self._explore.stop
        assert stop is not None  # as said above
        unit = "epochs" if stop.unit == "ep" else "steps"
        return f"{stop.name} after {time:g} {unit}: {self._explore.metric} was {value:.6g}"


class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
    """For ``TuneConfig(scheduler=...)``: starts trials in their order, and lets each sweep's rule judge its runs.

    Args:
        rules: by the name of their sweep.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        super().__init__()
        self._rules = rules

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles schedulers for a restore that we never ask for, and rules lead to a terminal."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Hand on a report that ``Watch.report`` is part of, flattened by Tune; the trial always goes on."""
        said = {key.removeprefix("explore/"): value for key, value in result.items() if key.startswith("explore/")}
        if said:
            self._rules[said.pop("sweep")].hear(**said)
        return str(TrialScheduler.CONTINUE)


def build_rule(explore: ExploreSpec, stopped: StoppedRuns) -> Rule | None:
    """The rule of a sweep; None where no run is to be ended.

    Args:
        explore: the section.
        stopped: is told of runs that are to end.
    """
    if explore.stop is None:
        return None
    attributes = {"time_attr": TIME, "metric": VALUE, "mode": explore.mode}
    grace = int(explore.stop.grace[:-2])
    if explore.stop.asha is not None:
        scheduler = AsyncHyperBandScheduler(
            **attributes,
            max_t=LONGEST,
            grace_period=grace,
            reduction_factor=explore.stop.asha.reduction,
            # A run that is through ends by itself, with its result.
            stop_last_trials=False,
        )
    else:
        assert explore.stop.median is not None  # one of both
        scheduler = MedianStoppingRule(
            **attributes,
            grace_period=grace,
            min_samples_required=explore.stop.median.min_runs,
            # It would pause runs until there are others to compare with; ours run on meanwhile.
            min_time_slice=float("inf"),
        )
    return Rule(explore, scheduler, stopped)


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
                    self.ended(task, JobOutcome("done", values=result["last"]))

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
