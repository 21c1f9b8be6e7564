"""Tune's schedulers as the judges of a sweep's runs: they say which to end early, and the runs end themselves.

A run that Tune stops itself is caught in the middle of its report: its thread, with its lease, waits there until Tune
has another trial for that process, and is killed where it then takes more than 2 s to end; the trial that wanted the
process is lost. So the decision is written down, Tune is told to go on, and the run reads it when its report returns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import rt_scale.launch.cluster  # noqa: F401 - sets what Ray reads when it is imported
from rt_scale.launch.stopped import StoppedRun, StoppedRuns
from rt_scale.spec.explore import ExploreSpec, StopSpec

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler  # isort: skip

TIME, VALUE = "time", "value"
LONGEST = 2**40
"""Rungs are made up to here; a rung that no run reaches decides nothing."""


class _Run(NamedTuple):
    """A run as Tune's schedulers know a trial; of equal names, one run, in whatever trial or driver."""

    trial_id: str


class EarlyStopping(FIFOScheduler):  # type: ignore[misc]
    """Starts trials in their order, and writes down which runs are to end early by one of Tune's rules.

    Args:
        stop: the rule.
        metric: its name, for the reason that is told.
        rule: Tune's scheduler on the attributes ``time`` and ``value``.
        stopped: where it is written down.
    """

    def __init__(self, stop: StopSpec, metric: str, rule: TrialScheduler, stopped: StoppedRuns) -> None:
        super().__init__()
        self._stop, self._name, self.rule, self._stopped = stop, metric, rule, stopped
        self._latest: dict[str, float] = {}
        self._ended: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a report that :meth:`Watch.report` is part of, flattened by Tune; the trial always goes on."""
        run = result.get("explore/run")
        if run is not None:
            time, value = result["explore/time"], result["explore/value"]
            if self._judge(run, time, value) == TrialScheduler.STOP and not result["explore/last"]:
                self._ended.add(run)
                self._stopped.record(run, StoppedRun(result["explore/step"], value, self._reason(time, value)))
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Everything was said in its reports."""

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
            self.rule.on_trial_add(None, known)
        self._latest[run] = time
        return str(self.rule.on_trial_result(None, known, {TIME: time, VALUE: value}))

    def _reason(self, time: float, value: float) -> str:
        unit = "epochs" if self._stop.unit == "ep" else "steps"
        return f"ended early by {self._stop.name} after {time:g} {unit}: {self._name} was {value:.6g}"


def build_scheduler(explore: ExploreSpec, stopped: StoppedRuns) -> EarlyStopping | None:
    """The sweep's early stopping for ``TuneConfig(scheduler=...)``; None where no run is to be ended.

    Args:
        explore: the section.
        stopped: is told of runs that are to end.
    """
    if explore.stop is None:
        return None
    attributes = {"time_attr": TIME, "metric": VALUE, "mode": explore.mode}
    grace = int(explore.stop.grace[:-2])
    if explore.stop.asha is not None:
        rule = AsyncHyperBandScheduler(
            **attributes,
            max_t=LONGEST,
            grace_period=grace,
            reduction_factor=explore.stop.asha.reduction,
            # A run that is through ends by itself, with its result.
            stop_last_trials=False,
        )
    else:
        assert explore.stop.median is not None  # one of both
        rule = MedianStoppingRule(
            **attributes,
            grace_period=grace,
            min_samples_required=explore.stop.median.min_runs,
            # It would pause runs until there are others to compare with; ours run on meanwhile.
            min_time_slice=float("inf"),
        )
    return EarlyStopping(explore.stop, explore.metric, rule, stopped)
