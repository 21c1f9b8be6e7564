"""What the ``explore`` sections of sweeps add to a queue: rules that end runs early, searches that add runs.

A run that Tune stops itself is caught in the middle of its report: its thread, with its lease, waits there until Tune
has another trial for that process, and is killed where it then takes more than 2 s to end; the trial that wanted the
process is lost. So the decision is written down, Tune is told to go on, and the run reads it when its report returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

import rt_scale.ray_backend.cluster  # noqa: F401 - sets what Ray reads when it is imported
from rt_scale.scheduler.early_stopping import curve
from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue
from rt_scale.scheduler.search import Search
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import SweepDir
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops, SweepRuns

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

    def __init__(self, explore: ExploreSpec, scheduler: TrialScheduler, stopped: EarlyStops) -> None:
        self._explore, self.scheduler, self._stopped = explore, scheduler, stopped
        self._latest: dict[str, float] = {}
        self._ended: set[str] = set()

    def hear(self, run: str, step: int, last: bool, time: float, value: float) -> None:
        """Judge what a run reports: the content of ``Watch.report``."""
        if self._judge(run, time, value) == TrialScheduler.STOP and not last:
            self._ended.add(run)
            stop = self._explore.stop
            assert stop is not None  # as said above
            self._stopped.record(run, EarlyStop(stop.name, step, time, stop.unit, self._explore.metric, value))

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


def build_rule(explore: ExploreSpec, stopped: EarlyStops) -> Rule | None:
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


class _Telling(EarlyStops):
    """Tells a run at once that it was ended, and keeps that."""

    def __init__(self, explore: ExploreSpec, folder: SweepDir, tell: Callable[[str, str], None]) -> None:
        super().__init__(explore, folder)
        self._tell = tell

    def record(self, name: str, stop: EarlyStop) -> None:
        """Keep it, and tell the run."""
        super().record(name, stop)
        self._tell(name, str(stop))


class Exploration:
    """The rules and searches of the sweeps of one queue; of plain grids there are none.

    Args:
        sweeps: of one store.
        failed: names of runs that are not tried again.
        room: how many runs of a launch section the cluster holds together.
        added: is told by how many runs more, or fewer, than was known a search comes to; each counts from the start,
            and not all points are runs of their own.

    Attributes:
        tell: is called with the name of a run that is to end and the reason; set by who can reach it.
    """

    def __init__(
        self,
        sweeps: Sequence[SweepRuns],
        failed: Collection[str],
        room: Callable[[LaunchSpec], int],
        added: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.tell: Callable[[str, str], None] = lambda name, reason: None
        self._room, self._several, self._added = room, len(sweeps) > 1, added
        self._counted = {point.spec.name for sweep in sweeps for point in sweep.points}
        self._rules: dict[str, Rule] = {}
        self._searches: dict[str, tuple[SweepRuns, Search]] = {}
        for sweep in sweeps:
            explore = sweep.spec.explore
            if explore is None:
                continue
            stopped = _Telling(explore, sweep.folder, lambda name, reason: self.tell(name, reason))
            if (rule := build_rule(explore, stopped)) is not None:
                self._rules[sweep.name] = rule
                for point in sweep.grid:
                    rule.remember(point.spec.name, curve(explore, sweep.store.run(point.spec)))
            if explore.search is not None:
                self._searches[sweep.name] = sweep, Search(sweep, failed)

    def scheduler(self) -> EarlyStopping:
        """For ``TuneConfig(scheduler=...)``."""
        return EarlyStopping(self._rules)

    def refill(self, queue: Queue) -> None:
        """Sample points where the queue has nothing for a free slot; so each is sampled as late as can be."""
        for sweep, search in self._searches.values():
            spec = sweep.spec
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
                if (result := sweep.store.run(point.spec).result()) is not None:  # of another sweep
                    self.ended(task, JobOutcome(JobState.DONE, values=result.last))

    def ended(self, task: Job, how: JobOutcome) -> None:
        """A run came to an end; a search learns from it."""
        if task.sweep is None or task.sweep.name not in self._searches or how.state not in FINAL:
            return
        sweep, search = self._searches[task.sweep.name]
        assert sweep.spec.explore is not None  # it searches
        search.ended(
            task.spec.name, how.values.get(sweep.spec.explore.metric) if how.state is not JobState.FAILED else None
        )


def _of(sweep: str, tasks: Iterable[Job]) -> int:
    return sum(task.sweep is not None and task.sweep.name == sweep for task in tasks)
