"""What the ``explore`` sections of sweeps add to a queue: rules that end runs early, searches that add runs.

A run that Tune stops itself is caught in the middle of its report: its thread, with its lease, waits there until Tune
has another trial for that process, and is killed where it then takes more than 2 s to end; the trial that wanted the
process is lost. So a rule's decision is written down, Tune is told to go on, and the run hears it when its report
returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from rt_scale.ray_backend.trial import TrialReport
from rt_scale.scheduler.early_stopping import Measurement, curve
from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue
from rt_scale.scheduler.search import Search
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops, SweepRuns

TIME, VALUE = "time", "value"
LONGEST = 2**40
"""Rungs are made up to here; a rung that no run reaches decides nothing."""


class _Run(NamedTuple):
    """A run as Tune's schedulers know a trial; of equal names, one run, in whatever trial or driver."""

    trial_id: str


class Rule:
    """One of Tune's schedulers as it judges the runs of one sweep; what it ends is written down.

    Args:
        explore: the sweep's section, which has ``stop``.
        stopped: where it is written down.
        tell: told the name of a run that is to end, and why.
    """

    def __init__(self, explore: ExploreSpec, stopped: EarlyStops, tell: Callable[[str, str], None]) -> None:
        self._explore, self._stopped, self._tell = explore, stopped, tell
        self.scheduler = _tune_scheduler(explore)
        self._latest: dict[str, float] = {}
        self._ended: set[str] = set()

    def hear(self, found: Measurement) -> None:
        """Judge what a run was measured at."""
        if self._judge(found.run, found.time, found.value) == TrialScheduler.STOP and not found.last:
            self._ended.add(found.run)
            stop = self._explore.stop
            assert stop is not None  # as said above
            early = EarlyStop(stop.name, found.step, found.time, stop.unit, self._explore.metric, found.value)
            self._stopped.record(found.run, early)
            self._tell(found.run, str(early))

    def remember(self, run: str, curve: Iterable[tuple[float, float]]) -> None:
        """Let the rule know a run from before this driver, which others are compared with, by times and values."""
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


def _tune_scheduler(explore: ExploreSpec) -> TrialScheduler:
    stop = explore.stop
    assert stop is not None  # a rule has one
    attributes = {"time_attr": TIME, "metric": VALUE, "mode": explore.mode, "grace_period": int(stop.grace[:-2])}
    if stop.asha is not None:
        return AsyncHyperBandScheduler(
            **attributes,
            max_t=LONGEST,
            reduction_factor=stop.asha.reduction,
            # A run that is through ends by itself, with its result.
            stop_last_trials=False,
        )
    assert stop.median is not None  # one of both
    return MedianStoppingRule(
        **attributes,
        min_samples_required=stop.median.min_runs,
        # It would pause runs until there are others to compare with; ours run on meanwhile.
        min_time_slice=float("inf"),
    )


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
        """Judge a measurement that a trial reports; the trial always goes on."""
        if self._rules and "report" in result and (found := TrialReport.model_validate_json(result["report"]).measured):
            self._rules[found.sweep].hear(found)
        return str(TrialScheduler.CONTINUE)


class Exploration:
    """The rules and searches of the sweeps of one queue; of plain grids there are none.

    Args:
        sweeps: with their runs.
        failed: names of runs that are not tried again.
        room: how many runs of a launch section the cluster holds together.
        added: is told by how many runs more, or fewer, than was known a search comes to; each counts from the start,
            and not all points are runs of their own.
        tell: told the name of a run that is to end early, and why.
    """

    def __init__(
        self,
        sweeps: Sequence[SweepRuns],
        failed: Collection[str],
        room: Callable[[LaunchSpec], int],
        *,
        added: Callable[[int], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self._room, self._several, self._added = room, len(sweeps) > 1, added
        self._counted = {point.spec.name for sweep in sweeps for point in sweep.points}
        self._rules: dict[str, Rule] = {}
        self._searches: dict[str, tuple[ExploreSpec, SweepRuns, Search]] = {}
        for sweep in sweeps:
            explore = sweep.spec.explore
            if explore is not None and explore.stop is not None:
                rule = self._rules[sweep.name] = Rule(explore, EarlyStops(explore, sweep.folder), tell)
                for point in sweep.grid:
                    rule.remember(point.spec.name, curve(explore, sweep.store.run(point.spec)))
            if explore is not None and explore.search is not None:
                self._searches[sweep.name] = explore, sweep, Search(sweep, failed)

    def scheduler(self) -> EarlyStopping:
        """For ``TuneConfig(scheduler=...)``."""
        return EarlyStopping(self._rules)

    def refill(self, queue: Queue) -> None:
        """Sample points where the queue has nothing for a free slot; so each is sampled as late as can be."""
        for _, sweep, search in self._searches.values():
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
                job = Job(label, point.spec, spec.launch, spec)
                queue.add(job)
                if (result := sweep.store.run(point.spec).result()) is not None:  # of another sweep
                    self.ended(job, JobOutcome(JobState.DONE, values=result.last))

    def ended(self, job: Job, outcome: JobOutcome) -> None:
        """A run came to an end; a search learns from it."""
        if job.sweep is None or job.sweep.name not in self._searches or outcome.state not in FINAL:
            return
        explore, _, search = self._searches[job.sweep.name]
        search.ended(
            job.spec.name, outcome.values.get(explore.metric) if outcome.state is not JobState.FAILED else None
        )


def _of(sweep: str, jobs: Iterable[Job]) -> int:
    return sum(job.sweep is not None and job.sweep.name == sweep for job in jobs)
