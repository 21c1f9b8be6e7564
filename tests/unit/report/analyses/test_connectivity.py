"""Runs that connect others in a report, from tables as such a run writes them."""

from __future__ import annotations

import io
from pathlib import Path
from statistics import stdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.analyses.base import Asked
from rt_scale.report.analyses.connectivity import analysis, connect_runs
from rt_scale.report.report import make_report
from rt_scale.report.summary import write_summary
from rt_scale.spec.errors import RunError
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.records import run_result

ENCODER = {"name": "convnet_8_2"}
DISTILL = {"kind": "distill", "data": {"name": "digits"}, "encoder": ENCODER, "projector": {"hidden": [8]}}
RUN = {"kind": "supervise", "data": {"name": "digits"}, "encoder": ENCODER,
       "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10}}  # fmt: skip
FILE: dict[str, Any] = {
    "name": "lines",
    "experiment": "fig9",
    "base": {"kind": "connect", "points": 3, "statistics": "batch",
             "ends": {"run": RUN, "vary": "seeds.order", "values": [0, 1, 2]}},
    "axes": {"ends.run.student.start_from": [None, {"run": DISTILL, "part": "encoder"}]},
    "seeds": 3,
}  # fmt: skip
SWEEP = SweepSpec.model_validate(FILE)
POINTS = expand(SWEEP)
PAIRS = ((0, 1), (0, 2), (1, 2))


def value(point: Point, pair: int) -> float:
    """The error in the middle of a line, whose ends have 0.1."""
    start = 0.3 if point.values["ends.run.student.start_from"] is None else 0.12
    return start + 0.01 * point.seed + 0.001 * pair


def tables(point: Point) -> dict[str, list[dict[str, Any]]]:
    """As the run writes them; losses are ten times the errors."""
    curves, pairs = [], []
    for number, (first, second) in enumerate(PAIRS):
        of = {"first": first, "second": second, "split": "test"}
        middle = value(point, number)
        for position, error in ((0.0, 0.1), (0.5, middle), (1.0, 0.1)):
            curves.append({**of, "position": position, "loss": 10 * error, "error": error, "accuracy": 1 - error})
        for measure, factor in (("error", 1), ("loss", 10)):
            over = factor * (middle - 0.1)
            pairs.append({**of, "measure": measure, "barrier": over, "barrier_line": over, "l2": 40.0, "cosine": 0.5})
    return {"curves": curves, "pairs": pairs}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """All but the last run are finished."""
    found = Store(tmp_path / "store")
    for point in POINTS[:-1]:
        run = found.run(point.spec)
        with run.acquire():
            run.write_spec(point.spec)
            for name, rows in tables(point).items():
                file = io.BytesIO()
                pq.write_table(pa.Table.from_pylist(rows), file)
                run.save_artifact(f"{name}.parquet", file.getvalue())
            run.complete(run_result({"barrier/test/error": 0.2}))
    return found


def asked(store: Store, tmp_path: Path) -> Asked:
    states = {point.spec.name: store.status(point.spec.name).state for point in POINTS}
    return Asked(POINTS, {}, states, store, tmp_path / "report", "last", "fig9")


def test_runs_are_told_by_their_start(store: Store, tmp_path: Path) -> None:
    runs = connect_runs(asked(store, tmp_path))
    assert [(run.at["start"], run.seed) for run in runs] == [
        (start, seed) for seed in range(3) for start in ("init", "student")
    ]
    assert [run.found is None for run in runs] == [False] * 5 + [True]
    assert runs[0].at.keys() == {"analysis", "data", "probed", "start"}
    assert runs[0].found is not None
    assert runs[0].found.barrier("test", "error") == pytest.approx(0.201)
    assert runs[0].found.barrier("train", "error") is None


def test_barriers_have_intervals_over_seeds_and_spreads_over_pairs(store: Store, tmp_path: Path) -> None:
    found = analysis(asked(store, tmp_path))
    barriers, distances = found.tables
    rows = {(row[0], row[1]): row[2:] for row in barriers.rows[1:]}
    assert set(rows) == {(start, f"test {measure}") for start in ("from init", "from student")
                         for measure in ("error (points)", "loss (nats)")}  # fmt: skip
    mean, line, spread, pairs, seeds = rows["from init", "test error (points)"]
    assert mean.startswith("21.1 [")
    assert (line, pairs, seeds) == (mean, "9", "3")
    expected = [100 * value(point, pair) for point in POINTS[::2] for pair in range(3)]
    assert float(spread) == pytest.approx(stdev(expected), rel=0.01)
    assert rows["from student", "test error (points)"][0] == "2.6"  # of two seeds, no interval
    assert rows["from student", "test loss (nats)"][-1] == "2"
    assert distances.rows[1] == ["from init", "40", "0.5"]
    said = " ".join(found.said)
    assert all(words in said for words in ("5 of 6 runs done", "15 pairs", "3 points a pair", "batch", "none"))
    for suffix in (".svg", ".png"):
        assert (tmp_path / "report" / f"figure-9{suffix}").stat().st_size > 1000
    drawn = found.pictures[0].svg.read_text()
    assert all(word in drawn for word in ("from init", "from student", "test error (%)", "test loss (nats)"))
    assert "train error" not in drawn


def test_a_report_judges_both_starts(store: Store, tmp_path: Path) -> None:
    report = make_report([SweepRuns(SWEEP, POINTS, store)], "last", DataHere(tmp_path / "data"))
    words = {judged.claim: judged.verdict.word for judged in report.verdicts}
    assert words["Runs from one fresh start are not linearly connected."] == "holds"
    assert set(words.values()) == {"holds", "undecided"}  # two seeds of students decide nothing
    page = (report.folder / "report.html").read_text()
    assert 'id="table-barriers"' in page
    assert "Plotly" not in page
    assert "| from init | test error" in (report.folder / "report.md").read_text()
    written = write_summary([report], store, "rt-scale summary", tmp_path / "summary")
    assert tmp_path / "summary" / "lines" / "figure-9.png" in written


def test_before_the_first_line_there_is_nothing_to_draw(tmp_path: Path) -> None:
    found = analysis(asked(Store(tmp_path / "store"), tmp_path))
    assert (found.pictures, found.tables, len(found.runs)) == ((), (), 6)
    assert "No line" in found.said[0]


def test_a_torn_table_is_told(store: Store, tmp_path: Path) -> None:
    path = store.run(POINTS[0].spec).artifacts / "pairs.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match=r"pairs\.parquet' cannot be read"):
        connect_runs(asked(store, tmp_path))
