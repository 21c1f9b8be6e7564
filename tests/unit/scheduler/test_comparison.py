"""What the comparison view of a sweep is made of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rt_scale.scheduler.comparison import all_points, board_figures, board_metrics, board_runs, refresh_board
from rt_scale.spec.grid import expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


def shown(axes: dict[str, list[Any]], **more: Any) -> dict[str, dict[str, Any]]:
    """Label -> values of the runs of a sweep over ``axes``."""
    runs = board_runs(expand(SweepSpec(name="a", base=BASE, axes=axes, **more)), Store(Path("store")))
    return {run.label: dict(run.values) for run in runs}


def test_names_and_axes_are_what_varies(tmp_path: Path) -> None:
    axes = {"student.alpha": [0.5, 1.0], "encoder.norm": ["none"], "probe.linear": [True]}
    points = expand(SweepSpec(name="a", base=BASE, axes=axes, seeds=2))
    runs = board_runs(points, Store(tmp_path))
    names = ["1 alpha=0.5", "2 alpha=1"]
    assert [run.label for run in runs] == [f"{name},seed={seed}" for name in names for seed in (0, 1)]
    assert [run.group for run in runs] == [name for name in names for _ in (0, 1)]
    assert [run.values for run in runs] == [{"alpha": alpha} for alpha in (0.5, 1.0) for _ in (0, 1)]
    assert [run.folder.name for run in runs] == [points[number].spec.name for number in (0, 2, 1, 3)]
    assert shown({"encoder.norm": ["none"]}) == {"norm=none,seed=0": {"norm": "none"}}  # else it would have no name
    assert board_runs([], Store(tmp_path)) == []


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("student.alpha", [1.0, 0.1, 1e-10, 0.01, 0, 0.5], ["0", "1e-10", "0.01", "0.1", "0.5", "1"]),
        ("projector.out_dim", [1 << power for power in (16, 4, 1, 0, 10)], ["1", "2", "16", "1024", "65536"]),
        ("encoder.norm", ["none", "batch", "layer"], ["none", "batch", "layer"]),  # as the sweep has them
    ],
)
def test_names_are_sorted_as_texts_in_the_order_of_the_values(key: str, given: list[Any], expected: list[str]) -> None:
    axes = {key: given, "train.epochs": [10, 9]}
    names = [f"{key.rpartition('.')[2]}={value},train.epochs={epochs}" for value in expected for epochs in (9, 10)]
    found = list(shown(axes))
    assert [name.partition(" ")[2] for name in found] == [f"{name},seed=0" for name in names]
    assert found == sorted(found)


def test_values_keep_their_types() -> None:
    axes = {"encoder.norm": ["none", "batch"], "probe.standardized": [True, False], "train.epochs": [1, 2]}
    values = list(shown(axes).values())
    assert values[0] == {"norm": "none", "standardized": False, "train.epochs": 1}
    assert values[-1] == {"norm": "batch", "standardized": True, "train.epochs": 2}


def test_lists_and_mappings_are_shown_in_short() -> None:
    start = {"run": {"same_but": {"train": {"epochs": 40}}}}
    values = list(shown({"teacher.start_from": [None, start], "projector.hidden": [[16], [16, 8]]}).values())
    assert values[0] == {"start_from": None, "hidden": "16"}
    assert values[-1] == {"start_from": "student of ec8431", "hidden": "16+8"}


def test_the_output_dimension_is_shown_with_its_logarithm_where_that_is_whole() -> None:
    assert shown({"projector.out_dim": [65536, 16]}) == {
        "1 out_dim=16,seed=0": {"out_dim": 16, "out_dim (log2)": 4},
        "2 out_dim=65536,seed=0": {"out_dim": 65536, "out_dim (log2)": 16},
    }
    assert list(shown({"projector.out_dim": [16, 100]}).values()) == [{"out_dim": 16}, {"out_dim": 100}]


def test_a_wide_axis_is_shown_with_its_logarithm_which_0_has_not() -> None:
    assert list(shown({"student.alpha": [0, 1e-10, 1.0]}).values()) == [
        {"alpha": 0, "alpha (log10)": None},
        {"alpha": 1e-10, "alpha (log10)": pytest.approx(-10)},
        {"alpha": 1.0, "alpha (log10)": 0.0},
    ]
    assert shown({"student.alpha": [0.001, 1]})["1 alpha=0.001,seed=0"]["alpha (log10)"] == pytest.approx(-3)
    assert shown({"student.alpha": [0, 0.0011, 1]})["1 alpha=0,seed=0"] == {"alpha": 0}


def test_what_follows_from_another_axis_is_no_part_of_a_name() -> None:
    pairs = {"encoder.name": ["resnet18", "vgg11"], "data.size": [16, 32]}
    runs = shown({"student.alpha": [0.5, 1.0]}, zip=[pairs])
    assert list(runs)[:2] == ["1 alpha=0.5,encoder.name=resnet18,seed=0", "2 alpha=0.5,encoder.name=vgg11,seed=0"]
    assert runs["4 alpha=1,encoder.name=vgg11,seed=0"] == {"alpha": 1.0, "encoder.name": "vgg11", "data.size": 32}


def test_the_views_are_made_in_the_sweeps_folder(tmp_path: Path) -> None:
    sweep = SweepSpec(name="a", base=BASE, axes={"student.alpha": [0.5, 1.0]})
    runs = SweepRuns(sweep, expand(sweep), Store(tmp_path))
    board = refresh_board([runs])
    assert board == tmp_path / "sweeps" / "a" / "board"
    assert sorted(os.listdir(board)) == ["1 alpha=0.5", "2 alpha=1", "sweep"]
    single = refresh_board([runs], every_run=True)
    assert single == tmp_path / "sweeps" / "a" / "board-runs"
    assert sorted(os.listdir(single)) == ["1 alpha=0.5,seed=0", "2 alpha=1,seed=0", "mean", "sweep"]


def test_several_sweeps_are_one_view_with_their_names_as_an_axis(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sweeps = [
        SweepSpec(name="a", base=BASE, axes={"student.alpha": [0.5, 1.0]}),
        SweepSpec(name="b", base=BASE, axes={"projector.out_dim": [16, 64]}),
        SweepSpec(name="c", base=BASE, seeds=2),
    ]
    loaded = [SweepRuns(sweep, expand(sweep), store) for sweep in sweeps]
    names = ["1 sweep=a,alpha=0.5", "2 sweep=a,alpha=1", "3 sweep=b,out_dim=16", "4 sweep=b,out_dim=64", "5 sweep=c"]
    runs = board_runs(all_points(loaded), store)
    assert list(dict.fromkeys(run.group for run in runs)) == names
    assert [run.label for run in runs][-2:] == ["5 sweep=c,seed=0", "5 sweep=c,seed=1"]
    second = {"sweep": "b", "out_dim": 16, "out_dim (log2)": 4}
    assert [run.values for run in runs][1:3] == [{"sweep": "a", "alpha": 1.0}, second]
    board = refresh_board(loaded)
    assert board == tmp_path / "sweeps" / "a" / "board-with-b-c"
    assert sorted(os.listdir(board)) == [*names, "sweep"]


def test_figures_are_those_of_the_reports(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for path in ("a/report/figure-3.png", "a/report/with-b/figure-4.png", "a/report/figure-3.svg", "b/report/c.png"):
        (tmp_path / "sweeps" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sweeps" / path).touch()
    of_a = {"figure-3": "a/report/figure-3.png", "with-b/figure-4": "a/report/with-b/figure-4.png"}
    a, b, none = (SweepRuns(SweepSpec(name=name, base=BASE), [], store) for name in ("a", "b", "none"))
    assert board_figures([a]) == {f"figures/{name}": tmp_path / "sweeps" / of_a[name] for name in of_a}
    assert list(board_figures([a, b])) == [*(f"figures of a/{name}" for name in of_a), "figures of b/c"]
    assert board_figures([none]) == {}


def test_what_a_classifier_reaches_is_a_column_of_supervised_sweeps_alone() -> None:
    classifier = {**BASE, "kind": "supervise", "projector": {"out_dim": 10}}
    supervised, distilled = (expand(SweepSpec(name="a", base=base)) for base in (classifier, BASE))
    assert board_metrics(supervised)[:2] == ["test/accuracy", "train/accuracy"]
    assert "train/kl" not in board_metrics(supervised)
    assert not [tag for tag in board_metrics(distilled) if "accuracy" in tag]
    assert "train/kl" in board_metrics(distilled)
    assert {"test/accuracy", "train/accuracy", "train/kl"} < set(board_metrics([*supervised, *distilled]))
    lines = {"kind": "connect", "ends": {"run": classifier, "vary": "seeds.order", "values": [1, 2]}}
    connected = expand(SweepSpec(name="a", base=lines))
    assert board_metrics(connected) == list(connected[0].spec.logged)
    assert board_metrics([*supervised, *connected])[0] == "test/accuracy"


def test_student_teacher_and_loss_come_first_as_five_columns_are_shown_at_first() -> None:
    tags = board_metrics(expand(SweepSpec(name="a", base=BASE)))
    student_and_teacher = [f"probe/{role}/{kind}" for kind in ("linear", "knn") for role in ("student", "teacher")]
    assert tags[:5] == [*student_and_teacher, "train/loss"]
    assert tags[-4:] == [f"probe/input/{kind}" for kind in ("linear", "knn", "linear_standardized", "knn_standardized")]


@pytest.mark.parametrize(
    ("probe", "there", "absent"),
    [
        ({"knn": 0}, "probe/student/linear_standardized", "knn"),
        ({"linear": False}, "probe/input/knn", "linear"),
        ({"standardized": False}, "probe/teacher/linear", "standardized"),
    ],
)
def test_the_board_has_a_column_for_what_is_probed(probe: dict[str, Any], there: str, absent: str) -> None:
    tags = board_metrics(expand(SweepSpec(name="a", base={**BASE, "probe": probe})))
    assert there in tags
    assert not [tag for tag in tags if absent in tag]
    assert "train/loss" in tags
    assert len(tags) == len(set(tags))


@pytest.mark.parametrize("data", [{"name": "gaussian", "size": 8, "samples": 60}, {"name": "stl10_unlabeled"}])
def test_a_set_without_labels_has_no_columns_of_its_own_and_a_grid_with_others_has(data: dict[str, Any]) -> None:
    base = {**BASE, "data": data, "probe": {"also": ["stl10", "digits"]}}
    tags = board_metrics(expand(SweepSpec(name="a", base=base)))
    assert {tag.partition("/")[0] for tag in tags} == {"probe@stl10", "probe@digits", "train", "distance"}
    images = {**base, "data": {"name": "my_own"}}
    mixed = [point for each in (base, images) for point in expand(SweepSpec(name="a", base=each))]
    assert "probe/student/linear" in board_metrics(mixed)


def test_the_board_has_the_columns_of_every_point() -> None:
    """A probe that only some points of the grid have is a column, too, and each once."""
    points = expand(SweepSpec(name="a", base=BASE, axes={"probe.knn": [0, 5], "probe.linear": [True]}))
    tags = board_metrics(points)
    assert {"probe/student/linear", "probe/student/knn"} <= set(tags)
    assert len(set(tags)) == len(tags)
