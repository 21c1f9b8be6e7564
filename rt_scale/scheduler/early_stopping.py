"""Runs that a sweep's scheduler ended early, kept in the sweep's folder: a second driver leaves them ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.atomic import read_json
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store, SweepDir

FILE = "stopped.json"


@dataclass(frozen=True)
class StoppedRun:
    """A run that was ended early.

    Attributes:
        step: optimiser steps that it had done.
        value: what it had reached in the metric.
        reason: why, for people.
    """

    step: int
    value: float
    reason: str


class StoppedRuns:
    """The runs of one sweep that were ended early by its present rule; one driver writes.

    Their directories stay partial, so that a sweep without the rule goes on with them. Under another metric, mode or
    rule none counts as ended.

    Args:
        explore: the sweep's section.
        sweep: the sweep's folder in the store.
    """

    def __init__(self, explore: ExploreSpec, sweep: SweepDir) -> None:
        self._sweep = sweep
        self._rule = explore.model_dump(mode="json", include={"metric", "mode", "stop"})

    def runs(self) -> dict[str, StoppedRun]:
        """Name of a run -> how it was ended, as the file now says."""
        try:
            found = read_json(self._sweep.path / FILE)
        except FileNotFoundError:
            return {}
        return {name: StoppedRun(**run) for name, run in found["runs"].items()} if found["rule"] == self._rule else {}

    def record(self, name: str, run: StoppedRun) -> None:
        """Add the run ``name``; runs of another rule are forgotten."""
        runs = {**self.runs(), name: run}
        record = {"rule": self._rule, "runs": {key: asdict(each) for key, each in runs.items()}}
        self._sweep.record(FILE, record)


def ended_early(sweeps: Iterable[SweepSpec], store: Store) -> dict[str, str]:
    """Runs that the present rule of their sweep ended before, by name: the reason."""
    found: dict[str, str] = {}
    for spec in sweeps:
        if spec.explore is not None and spec.explore.stop is not None:
            runs = StoppedRuns(spec.explore, store.sweep(spec.name)).runs()
            found |= {name: run.reason for name, run in runs.items()}
    return found


@dataclass(frozen=True)
class Measurement:
    """What a run was measured at, for its sweep's rule.

    Attributes:
        sweep, run: names.
        step: optimiser steps done.
        last: whether these are all.
        time: how far it is, in the unit of the rule's grace.
        value: of the metric.
    """

    sweep: str
    run: str
    step: int
    last: bool
    time: float
    value: float


def measurement(
    explore: ExploreSpec, sweep: str, run: str, *, step: int, steps: int, epoch: float, values: Mapping[str, float]
) -> Measurement | None:
    """What the rule of ``explore``, the section of ``sweep``, judges ``run`` by; None where it was not measured.

    Args:
        explore, sweep, run: as above.
        step: optimiser steps done, of ``steps``.
        steps: of the whole run.
        epoch: passes over the training images done.
        values: what was logged.
    """
    value = values.get(explore.metric)
    if value is None or not math.isfinite(value):
        return None
    return Measurement(sweep, run, step, step >= steps, time_of(explore, step, epoch), value)


def time_of(explore: ExploreSpec, step: int, epoch: float) -> float:
    """How far a run is, in the unit of the rule's grace: epochs or optimiser steps."""
    assert explore.stop is not None  # who asks has a rule
    return epoch if explore.stop.unit == "ep" else float(step)


def curve(explore: ExploreSpec, run: RunDir) -> list[tuple[float, float]]:
    """What the run's directory knows of the metric: time in the rule's unit, and value."""
    rows = read_metrics(run.metrics_path).to_pylist()
    return [
        (time_of(explore, row["step"], row["epoch"]), row["value"])
        for row in rows
        if row["name"] == explore.metric and math.isfinite(row["value"])
    ]
