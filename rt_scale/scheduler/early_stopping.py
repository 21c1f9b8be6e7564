"""The measurements by which a sweep's rule stops runs early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rt_scale.spec.explore import ExploreSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir


@dataclass(frozen=True)
class Measurement:
    """A measurement of a run, for its sweep's rule.

    Attributes:
        step: optimiser steps done.
        last: whether the run has no more steps.
        time: ``step`` in the unit of the rule's grace.
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
    """The measurement of ``run`` for the rule of ``explore``; None if its metric is not in ``values``, or not finite.

    ``step`` and ``epoch``: optimiser steps, of ``steps``, and epochs done; ``values``: logged metrics by name.
    """
    value = values.get(explore.metric)
    if value is None or not math.isfinite(value):
        return None
    return Measurement(sweep, run, step, step >= steps, time_of(explore, step, epoch), value)


def time_of(explore: ExploreSpec, step: int, epoch: float) -> float:
    """Epochs or optimiser steps done, whichever is the unit of the rule's grace."""
    assert explore.stop is not None
    return epoch if explore.stop.unit == "ep" else float(step)


def curve(explore: ExploreSpec, run: RunDir) -> list[tuple[float, float]]:
    """The metric's curve in the run's directory: (time in the rule's unit, value)."""
    rows = read_metrics(run.metrics_path).to_pylist()
    return [
        (time_of(explore, row["step"], row["epoch"]), row["value"])
        for row in rows
        if row["name"] == explore.metric and math.isfinite(row["value"])
    ]
