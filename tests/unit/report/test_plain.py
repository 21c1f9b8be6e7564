"""Runs without probes in a report: metrics over seeds, and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.plain import MOST_PICTURES, metric_rows, metrics_of, metrics_table, plain_cells, run_pictures
from rt_scale.report.report import make_report
from rt_scale.scheduler.comparison import board_metrics
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec, read_recorded
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_result


def point(limit: int, seed: int) -> Point:
    document = {"kind": "not_here:Count", "limit": limit, "seeds": {"data": seed}, "source": "0" * 64}
    return Point({"limit": limit}, seed, read_recorded(document))


POINTS = [point(limit, seed) for limit in (3, 5) for seed in range(3)]


def results() -> dict[str, Any]:
    return {
        each.spec.name: run_result({"sum": each.values["limit"] + each.seed, "size": 1.0}, data=None)
        for each in POINTS[:5]
    }


def test_metrics_over_seeds() -> None:
    first, second = metric_rows(POINTS, results())
    assert first.shown == {"limit": "3"}
    assert (first.measured["sum"].mean, first.measured["sum"].n) == (4.0, 3)
    assert (second.measured["sum"].mean, second.measured["sum"].n, len(second.runs)) == (5.5, 2, 3)
    assert metrics_of([first, second]) == ["sum", "size"]
    assert first.texts(["sum", "none"]) == ["4 [1.516, 6.484]", "-"]
    assert second.texts(["sum"]) == ["5.5"]
    table = metrics_table([first, second]).to_pylist()
    assert [(row["limit"], row["metric"], row["mean"], row["n"]) for row in table] == [
        ("3", "sum", 4.0, 3), ("3", "size", 1.0, 3), ("5", "sum", 5.5, 2), ("5", "size", 1.0, 2)
    ]  # fmt: skip


def test_the_shorter_side_of_a_table_has_the_columns() -> None:
    rows = metric_rows(POINTS, results())
    first, second = rows[0].runs, rows[1].runs
    assert plain_cells(rows) == [
        ["limit", "runs", "sum", "size"], ["3", first, "4 [1.516, 6.484]", "1 [1, 1]"], ["5", second, "5.5", "1"]
    ]  # fmt: skip
    assert plain_cells(rows[1:]) == [["metric", "limit 5"], ["runs", second], ["sum", "5.5"], ["size", "1"]]
    alone = metric_rows([Point({}, 0, POINTS[0].spec)], results())
    assert plain_cells(alone) == [["metric", "value"], ["runs", first[:1]], ["sum", "3"], ["size", "1"]]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "store")
    for name, result in results().items():
        run: RunDir = found.run(name)
        with run.acquire():
            Image.new("L", (2, 2)).save(run.path / "plane.png", "png")
            for number in range(4):
                run.save_artifact(f"plane{number}.png", (run.path / "plane.png").read_bytes())
            run.complete(result)
    return found


def test_pictures_of_the_first_runs(store: Store) -> None:
    shots = run_pictures(POINTS, store)
    assert len(shots) == MOST_PICTURES
    assert shots[0].label == "limit=3,seed=0: plane0"
    assert shots[0].inline.startswith('<img src="data:image/png;base64,')


def test_a_report_of_a_kind_that_is_not_here(store: Store, tmp_path: Path) -> None:
    sweep = SweepRuns(SweepSpec(name="counts", base={}), POINTS, store)
    report = make_report([sweep], "last", DataHere(tmp_path / "data"))
    assert (report.tables, report.data, report.finished) == ({}, (), "5 of 6")
    names = {path.name for path in report.files}
    assert names == {"report.html", "report.md", "tables.json", "metrics.csv", "metrics.parquet"}
    page = (report.folder / "report.html").read_text()
    assert page.count("<img") == MOST_PICTURES
    assert "4 [1.516, 6.484]" in page
    assert "4 \\[1.516, 6.484\\]" in (report.folder / "report.md").read_text()


@pytest.mark.parametrize("experiment", [None, "fig3"])
def test_trainings_without_baselines_stand_beside_probed_ones(tmp_path: Path, experiment: str | None) -> None:
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
    alone = {"probe/student/linear": 0.5, "train/loss": 1.0}
    probed = {**alone, **{f"probe/{role}/linear": 0.25 for role in ("teacher", "input")}}
    store, points = Store(tmp_path / "store"), []
    for baselines, last in ((True, probed), (False, alone)):
        probe = {"knn": 0, "standardized": False, "baselines": baselines}
        spec = RunSpec.model_validate({**base, "probe": probe})
        points.append(Point({"probe.baselines": baselines}, 0, spec))
        run = store.run(spec)
        with run.acquire():
            run.complete(run_result(last))
    sweep = SweepRuns(SweepSpec(name="both", base={}, experiment=experiment), points, store)
    report = make_report([sweep], "last", DataHere(tmp_path / "data"))
    (row,) = report.tables["linear"]
    assert row.runs[0].run == points[0].spec.name
    (plain,) = report.plain
    assert (plain.runs, plain.measured["probe/student/linear"].mean) == ((points[1].spec.name,), 0.5)
    assert board_metrics(points[1:]) == [
        "probe/student/linear",
        "train/loss",
        "train/kl",
        "distance/from_init",
        "distance/from_teacher",
    ]
