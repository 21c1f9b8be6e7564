"""Pruned runs in a report: curves that begin with the dense run, and figure 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.analyses.base import Asked
from rt_scale.report.analyses.pruning import analysis, labelled_curves, pruned_runs
from rt_scale.report.report import make_report
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_result
from tests.unit.report.analyses.test_connectivity import DISTILL, RUN

FILE: dict[str, Any] = {
    "name": "tickets",
    "experiment": "fig8",
    "base": RUN,
    "axes": {"prune.round": [0, 2, 8]},
    "zip": [{"student.start_from": [None, None, {"run": DISTILL, "part": "encoder"}],
             "prune.rewind": ["0ep", "1ep", "0ep"]}],
    "seeds": 3,
}  # fmt: skip
SWEEP = SweepSpec.model_validate(FILE)
POINTS = list({point.spec.name: point for point in expand(SWEEP)}.values())
COST = {(True, "0ep"): 0.05, (True, "1ep"): 0.0, (False, "0ep"): 0.001}
"""Of a round, by whether it starts fresh, and its rewinding."""


def result(point: Point) -> RunResult:
    values = point.values
    number, fresh = int(str(values["prune.round"])), values["student.start_from"] is None
    accuracy = (0.9 if fresh else 0.92) - number * COST[fresh, str(values["prune.rewind"])] + 0.001 * point.seed
    left = {"sparsity/left": 0.8**number} if number else {}
    best = {"test/accuracy": {"value": accuracy + 0.02, "epoch": 1, "step": 2}}
    return run_result({"test/accuracy": accuracy, **left}, best=best)


def asked(tmp_path: Path, which: Any = "last", without: tuple[str, ...] = ()) -> Asked:
    results = {point.spec.name: result(point) for point in POINTS if point.spec.name not in without}
    states = {point.spec.name: "done" if point.spec.name in results else "missing" for point in POINTS}
    return Asked(POINTS, results, states, Store(tmp_path / "store"), tmp_path / "report", which, "fig8")


def test_every_curve_begins_with_the_dense_run_of_its_start(tmp_path: Path) -> None:
    assert len(POINTS) == 24  # the dense run of a fresh start is one for both rewindings
    curves = labelled_curves(pruned_runs(asked(tmp_path)))
    assert set(curves) == {"init, rewind 0ep", "init, rewind 1ep", "student, rewind 0ep"}
    for label, runs in curves.items():
        assert sorted((run.at["round"], run.seed) for run in runs) == [
            (number, seed) for number in (0, 2, 8) for seed in range(3)
        ]
        left = {run.at["round"]: run.found.left for run in runs if run.found is not None}
        assert left == {0: 1.0, 2: pytest.approx(0.64), 8: pytest.approx(0.8**8)}
        dense = {run.found.last for run in runs if run.found is not None and not run.at["round"]}
        assert min(dense) == pytest.approx(0.9 if label.startswith("init") else 0.92)


@pytest.mark.parametrize(("which", "dense"), [("last", "90.1"), ("best", "92.1")])
def test_a_table_and_the_figure_show_the_epoch_that_is_asked_for(tmp_path: Path, which: str, dense: str) -> None:
    found = analysis(asked(tmp_path, which))
    assert found is not None
    (table,) = found.tables
    assert table.rows[0] == ["round", "weights left", "init, rewind 0ep", "init, rewind 1ep", "student, rewind 0ep"]
    assert [row[:2] for row in table.rows[1:]] == [["0", "100.0 %"], ["2", "64.0 %"], ["8", "16.8 %"]]
    assert table.rows[1][2].startswith(f"{dense} ± 0.1 [")
    assert table.rows[1][2].endswith(", n = 3")
    assert all(word in found.said[0] for word in (f"{which} ", "0.2", "global", "weights"))
    (picture,) = found.pictures
    assert "single seeds" in picture.title  # of three
    drawn = found.pictures[0].svg.read_text()
    assert found.pictures[0].name == "figure-8"
    assert all(word in drawn for word in ("weights left (%)", "100.0", "16.8", "student, rewind 0ep"))


def test_runs_without_a_result_are_counted_and_left_out(tmp_path: Path) -> None:
    last = POINTS[-1]
    found = analysis(asked(tmp_path, without=(last.spec.name,)))
    assert found is not None
    assert found.said[0].startswith("23 of 24 runs done")
    assert found.tables[0].rows[3][4].endswith(", n = 2")


def test_runs_that_are_not_pruned_are_no_such_analysis(tmp_path: Path) -> None:
    dense = [point for point in POINTS if not point.values["prune.round"]]
    of = asked(tmp_path)
    assert analysis(Asked(dense, of.results, of.states, of.store, of.folder, "last")) is None


def test_a_report_judges_the_tickets(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for point in POINTS:
        run = store.run(point.spec)
        with run.acquire():
            run.write_spec(point.spec)
            run.complete(result(point))
    report = make_report([SweepRuns(SWEEP, POINTS, store)], "last", DataHere(tmp_path / "data"))
    assert [judged.verdict.word for judged in report.verdicts] == ["holds"] * 3
    # Of the one round between 55 and 1 % left.
    means = [number.mean for judged in report.verdicts for number in judged.verdict.numbers.values()]
    assert means == pytest.approx([-0.008, -0.4, 0.392])
