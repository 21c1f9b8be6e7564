from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.report.data_sets import data_rows
from rt_scale.report.sweep_report import write_report
from rt_scale.report.tables import rows, to_markdown
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.store import Store

Make = Callable[..., Any]


@pytest.fixture
def finished(tmp_path: Path, point: Make, result: Make) -> tuple[Store, list[Any]]:
    """Two finished runs, with curves of the linear probe."""
    store = Store(tmp_path / "store")
    found = []
    for seed in (0, 1):
        place = point({"student.alpha": 0.5}, seed)
        table = MetricsTable(store.run(place.spec).metrics_path)
        for epoch, student in ((0, 0.2), (1, 0.4)):
            values = {"student": student, "teacher": 0.2, "input": 0.6}
            table.append(epoch, epoch, {f"probe/{role}/linear": value for role, value in values.items()})
        table.flush()
        found.append((place, result(0.4 + seed / 10, 0.2, 0.6, best=0.5)))
    return store, found


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_report_is_written_beside_the_sweep(finished: tuple[Store, list[Any]], which: Any) -> None:
    store, runs = finished
    written = write_report("demo", runs, 3, store, which)
    folder = store.root / "sweeps" / "demo" / "report"
    names = ["tables.md", "tables.json", "curves-linear.png", "curves-linear.svg"]
    assert written.files == [
        folder / name for name in (*names, "report.html", "report.md", "report.csv", "report.parquet")
    ]
    assert all(path.stat().st_size > 0 for path in written.files)
    expected = rows(runs, "linear", which)
    assert (written.which, written.tables) == (which, {"linear": expected})
    text = (folder / "tables.md").read_text()
    assert text.startswith("# demo\n\nData: Digits. 2 of 3 runs finished.\n")
    assert to_markdown(expected, which) in text
    plain = json.loads((folder / "tables.json").read_text())
    assert plain == {"data": ["Digits"], "which": which, "tables": {"linear": [expected[0].to_json()]}}


def test_a_figure_beside_the_papers_numbers_names_its_data_set(finished: tuple[Store, list[Any]]) -> None:
    store, runs = finished
    written = write_report("demo", runs, 2, store, "last", experiment="fig1")
    assert [each.title for each in written.contents.pictures] == [
        "Figure 1, linear probe, Digits, with the paper's axes."
    ]


def test_data_sets_are_told_whether_prepared_or_damaged(tmp_path: Path) -> None:
    from rt_scale.data.prepare import open_prepared

    open_prepared("digits", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "meta.json").write_text("{")
    found = {row["name"]: row for row in data_rows(tmp_path)}
    assert {name: found[name]["prepared"] for name in ("digits", "mnist", "mine")} == {
        "digits": "yes",
        "mnist": "no",
        "mine": "damaged",
    }
    assert (found["digits"]["train"], found["digits"]["test"], found["digits"]["size"]) == (1437, 360, "8x8x1")
    assert found["digits"]["folder"] == str(tmp_path / "digits")
    assert "meta.json" in found["mine"]["problem"]
    assert found["mnist"]["folder"] == found["digits"]["problem"] == ""
