"""Students of trained teachers against labels in a report, of runs that were really executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.api import run
from rt_scale.report.analyses.labels import Compared, analysis, compared, panels
from rt_scale.report.statistics import DIFFERENCES, estimate
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from tests.unit.api.conftest import TINY
from tests.unit.report.analyses.test_layers import asked

CLASSIFIER = {"hidden": [], "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10}
SAME = {"kind": "supervise", "data": {"samples": None}, "student": {"alpha": 0}, "train": {"epochs": 1}}
TEACHER: dict[str, Any] = {"run": {"same_but": {**SAME, "teacher": {"temperature": 1}}}}
FILE: dict[str, Any] = {
    "name": "fractions",
    "base": {**TINY, "projector": CLASSIFIER, "student": {"alpha": 1}, "probe": {"baselines": False, "knn": 5}},
    "zip": [
        {
            "kind": ["supervise", "distill", "distill"],
            "teacher.start_from": [None, TEACHER, TEACHER],
            "teacher.temperature": [1, 1, 4],
        },
        {"data.samples": [20, 60], "train.epochs": [3, 1]},
    ],
    "seeds": 2,
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Point], Store]:
    """Two seeds of labels and two temperatures at two fractions, but for the last run."""
    folder = tmp_path_factory.mktemp("labels")
    points = expand(SweepSpec.model_validate(FILE))
    for point in points[:-1]:
        run(point.spec, store=folder / "store", data_dir=folder / "data", device="cpu", progress=False)
    return points, Store(folder / "store")


def test_each_temperature_is_compared_with_labels_of_the_same_images(
    executed: tuple[list[Point], Store], tmp_path: Path
) -> None:
    points, store = executed
    found = analysis(asked(points, store, tmp_path))
    assert found is not None
    assert found.said[0].startswith("4 configurations")
    (table,) = found.tables
    assert table.rows[0] == ["temperature", "samples", "seeds", "labels", "student", "gain", "teacher"]
    assert [row[:3] for row in table.rows[1:]] == [
        ["1", "20", "2"],
        ["1", "60", "2"],
        ["4", "20", "2"],
        ["4", "60", "1"],
    ]

    def accuracy(kind: str, temperature: float, samples: int, seed: int) -> float:
        (name,) = (
            point.spec.name
            for point in points
            if (point.spec.kind, point.values["teacher.temperature"], point.values["data.samples"], point.seed)
            == (kind, temperature, samples, seed)
        )
        result = store.run(name).result()
        assert result is not None
        return result.last["test/accuracy"]

    for row, (temperature, samples) in zip(table.rows[1:4], [(1, 20), (1, 60), (4, 20)], strict=True):
        gains = [accuracy("distill", temperature, samples, s) - accuracy("supervise", 1, samples, s) for s in (0, 1)]
        assert row[5].startswith(estimate(gains, DIFFERENCES).points)
    (picture,) = found.pictures
    drawn = picture.svg.read_text()
    for words in ("test accuracy", "gain over labels", "temperature = 4", "labels", "samples"):
        assert words in drawn


def test_seeds_are_paired_and_teachers_are_of_the_store(executed: tuple[list[Point], Store], tmp_path: Path) -> None:
    points, store = executed
    rows = compared(asked(points, store, tmp_path))
    assert [len(row.gains) for row in rows] == [2, 2, 2, 1]
    assert all(set(row.teacher) == {0, 1} for row in rows)
    without = [point for point in points if point.spec.kind == "distill" or point.seed == 1]
    assert [len(row.gains) for row in compared(asked(without, store, tmp_path))] == [1, 1, 1]


def test_sweeps_of_one_kind_alone_have_none(executed: tuple[list[Point], Store], tmp_path: Path) -> None:
    points, store = executed
    for kind in ("distill", "supervise"):
        assert analysis(asked([point for point in points if point.spec.kind == kind], store, tmp_path)) is None


def test_intervals_end_where_accuracies_do_and_gains_may_be_losses() -> None:
    apart, wide = {0: 0.02, 1: 0.5, 2: 0.98}, {0: 0.98, 1: 0.5, 2: 0.02}
    rows = [Compared({"data.samples": samples}, apart, wide, {}) for samples in (20, 60)]
    accuracies, gains = panels(rows, ["data.samples"])
    assert [line.label for line in accuracies.lines] == ["labels", "student"]
    for line in accuracies.lines:
        assert list(line.x) == [20, 60]
        assert (min(line.low), max(line.high)) == (0, 100)
    (line,) = gains.lines
    assert min(line.low) == -100
    assert panels(rows, []) == []
