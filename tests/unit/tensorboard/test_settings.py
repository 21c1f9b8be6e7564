"""Fields of runs as columns of tables."""

from __future__ import annotations

from rt_scale.tensorboard.settings import flat_settings, typed_columns


def test_flat_settings_keep_types() -> None:
    nested = {
        "kind": "distill",
        "data": {"name": "digits", "size": None},
        "projector": {"hidden": [256, 128]},
        "student": {"alpha": 1e-10},
        "probe": {"linear": True, "knn": 20},
    }
    assert flat_settings(nested) == {
        "kind": "distill",
        "data.name": "digits",
        "projector.hidden": "[256, 128]",
        "student.alpha": 1e-10,
        "probe.linear": True,
        "probe.knn": 20,
    }


def test_columns_have_one_type() -> None:
    rows = [{"alpha": 1, "norm": "none", "on": True, "mixed": True}, {"alpha": 0.5, "mixed": 3, "size": 32}]
    columns = typed_columns(rows)
    assert columns == {
        "alpha": [1, 0.5],
        "norm": ["none", None],
        "on": [True, None],
        "mixed": ["True", "3"],
        "size": [None, 32],
    }
    assert typed_columns([]) == {}
