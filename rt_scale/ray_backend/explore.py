"""The ``explore`` sections of sweeps: rules that end runs early, and searches that add runs.

Tune never stops a trial itself: a stopped trial's thread blocks in its report, holding the lease, until Tune reuses the
process; then Tune kills it after 2 s, and loses the new trial. Instead the run receives the stop after its report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from rt_scale.ray_backend.trial import Measurement
from rt_scale.scheduler.job import FINAL, Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue
from rt_scale.scheduler.search import Search
from rt_scale.spec.explore import ExploreSpec, StopSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops, SweepRuns

TIME, VALUE = "time", "value"
LONGEST = 2**40
"""Largest rung; a rung that no run reaches has no effect."""


class _Run(NamedTuple):
    """A run in the role of a trial for Tune's schedulers: equal names are one run, in any trial or driver."""

    trial_id: str


class Rule:
    """Judges the runs of one sweep, whose section has ``stop``, with one of Tune's schedulers.

    It records the runs that it ends in ``stopped``, and calls ``tell`` with their names and reasons.
    """

    def __init__(self, explore: ExploreSpec, stopped: EarlyStops, tell: Callable[[str, str], None]) -> None:
        assert explore.stop is not None  # see the class
        self._stop, self._metric, self._stopped, self._tell = explore.stop, explore.metric, stopped, tell
        self.scheduler = _tune_scheduler(explore.stop, explore.mode)
        self._latest: dict[str, float] = {}
        self._ended: set[str] = set()

    def hear(self, found: Measurement) -> None:
        """Judge a measurement of a run."""
        time, stop = self._time(found.step, found.epoch), self._stop
        if self._judge(found.run, time, found.value) == TrialScheduler.STOP and not found.last:
            self._ended.add(found.run)
            early = EarlyStop(stop.name, found.step, time, stop.unit, self._metric, found.value)
            self._stopped.record(found.run, early)
            self._tell(found.run, str(early))

    def remember(self, run: RunDir) -> None:
        """Add what an earlier driver's run measured, for comparison."""
        for row in read_metrics(run.metrics_path).to_pylist():
            if row["name"] == self._metric and math.isfinite(row["value"]):
                self._judge(run.name, self._time(row["step"], row["epoch"]), row["value"])

    def _time(self, step: int, epoch: float) -> float:
        """Time in the unit of the rule's grace."""
        return epoch if self._stop.unit == "ep" else float(step)

    def _judge(self, run: str, time: float, value: float) -> str:
        # A run resumed from a checkpoint repeats measurements; an ended run is no longer judged.
        if run in self._ended or time <= self._latest.get(run, -1.0):
            return str(TrialScheduler.CONTINUE)
        known = _Run(run)
        if run not in self._latest:
            self.scheduler.on_trial_add(None, known)
        self._latest[run] = time
        return str(self.scheduler.on_trial_result(None, known, {TIME: time, VALUE: value}))


def _tune_scheduler(stop: StopSpec, mode: str) -> TrialScheduler:
    attributes = {"time_attr": TIME, "metric": VALUE, "mode": mode, "grace_period": int(stop.grace[:-2])}
    if stop.asha is not None:
        return AsyncHyperBandScheduler(
            **attributes,
            max_t=LONGEST,
            reduction_factor=stop.asha.reduction,
            # A finished run ends by itself, with its result.
            stop_last_trials=False,
        )
    assert stop.median is not None  # exactly one of both is given
    return MedianStoppingRule(
        **attributes,
        min_samples_required=stop.median.min_runs,
        # By default it pauses runs until there are others to compare with; ours continue.
        min_time_slice=float("inf"),
    )


class Exploration:
    """The rules and searches of the sweeps of one queue; none for plain grids.

    Args:
        failed: names of runs that are not retried.
        room: how many runs of a launch section fit on the cluster at once.
        added: called with the change of a search's expected number of runs; several points can be one run.
        tell: called with the name of a run to end early, and the reason.
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
                    rule.remember(sweep.store.run(point.spec))
            if explore is not None and explore.search is not None:
                self._searches[sweep.name] = explore, sweep, Search(sweep, failed)

    def hear(self, found: Measurement) -> None:
        """Judge a measurement of a run by its sweep's rule."""
        self._rules[found.sweep].hear(found)

    def refill(self, queue: Queue) -> None:
        """Sample points only when the queue has nothing for a free slot, so that each uses the most results."""
        for _, sweep, search in self._searches.values():
            spec = sweep.spec
            room = 0 if queue.late else self._room(spec.launch)  # more samples would be too late, too
            while not queue.waiting and _of(spec.name, queue.live.values()) < room:
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
        """Report how a run came out to its search, if any."""
        if job.sweep is None or job.sweep.name not in self._searches or outcome.state not in FINAL:
            return
        explore, _, search = self._searches[job.sweep.name]
        search.ended(
            job.spec.name, outcome.values.get(explore.metric) if outcome.state is not JobState.FAILED else None
        )


def _of(sweep: str, jobs: Iterable[Job]) -> int:
    return sum(job.sweep is not None and job.sweep.name == sweep for job in jobs)
