from __future__ import annotations

from rt_scale.tensorboard.hparams import flat_settings, folder_name, typed_columns


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
    assert flat_settings({"alpha": 1}, prefix="student.") == {"student.alpha": 1}


def test_folder_names_are_single_and_short() -> None:
    assert folder_name("alpha=0.5,seed=3") == "alpha=0.5,seed=3"
    assert folder_name("../a/b") == "_a_b"
    assert folder_name("") == "run"
    long = [folder_name("ä" * 400 + end) for end in ("1", "2")]
    assert long[0] != long[1]
    assert all(len(name.encode()) < 200 for name in long)


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
