"""What a sweep's rule that ends runs early is told of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rt_scale.spec.explore import ExploreSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir


def report_for(
    explore: ExploreSpec, sweep: str, run: str, *, step: int, steps: int, epoch: float, values: Mapping[str, float]
) -> dict[str, Any]:
    """What a run adds to its report to Tune, so that its sweep's rule judges it.

    Tune's report returns when the rule has decided.

    Args:
        explore: the sweep's section, which has ``stop``.
        sweep: its name.
        run: name of the run.
        step: optimiser steps done.
        steps: of the whole run.
        epoch: passes over the training images done.
        values: what was logged.

    Returns:
        Empty where the metric was not measured.
    """
    value = values.get(explore.metric)
    if value is None or not math.isfinite(value):
        return {}
    time = time_of(explore, step, epoch)
    return {"explore": {"sweep": sweep, "run": run, "step": step, "last": step >= steps, "time": time, "value": value}}


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
