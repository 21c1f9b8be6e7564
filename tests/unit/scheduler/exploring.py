"""Sections that explore, for tests."""

from __future__ import annotations

from typing import Any

from rt_scale.spec.explore import ExploreSpec

METRIC = "probe/student/linear"
SPACE = {
    "student.alpha": {"loguniform": [1e-10, 1.0]},
    "projector.out_dim": {"pow2": [0, 16]},
    "train.optimizer.lr": {"uniform": [0.0, 1.0]},
    "encoder.norm": ["batch", None, "layer"],
}


def exploring(mode: str = "max", **fields: Any) -> ExploreSpec:
    return ExploreSpec.model_validate({"metric": METRIC, "mode": mode, **fields})


def searching(runs: int = 40, seed: int = 0, mode: str = "max", space: Any = SPACE) -> ExploreSpec:
    return exploring(mode, search={"optuna": {"runs": runs, "seed": seed}}, space=space)
