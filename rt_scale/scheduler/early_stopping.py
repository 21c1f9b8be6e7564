"""What a sweep's rule that ends runs early is told of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rt_scale.spec.explore import ExploreSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir


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
