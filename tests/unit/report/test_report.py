"""Reports of sweeps whose runs are in a store: what is written, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.report import make_report
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

Make = Callable[..., Any]
BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
NOTHING_HERE = DataHere(Path("nowhere"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def points(store: Store, point: Make, result: Make, finish: Make) -> list[Point]:
    """Two finished runs, with curves of the linear probe, and one that was never begun."""
    places = [point({"student.alpha": 0.5}, seed) for seed in range(3)]
    for seed in (0, 1):
        finish(store, places[seed], result(0.4 + seed / 10, 0.2, 0.6, best=0.5))
    return places


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_report_is_written_beside_the_sweep(store: Store, points: list[Point], which: Any) -> None:
    folder = store.root / "sweeps" / "demo" / "report"
    folder.mkdir(parents=True)
    (folder / "tables.md").write_text("of an earlier version")
    report = make_report([SweepRuns(SweepSpec(name="demo", base=BASE), points, store)], which, NOTHING_HERE)
    names = ["curves-linear.png", "curves-linear.svg", "report.html", "report.md", "tables.json"]
    assert report.files == [
        folder / name
        for name in (*names, *(f"{table}.{form}" for table in ("report", "beside") for form in ("csv", "parquet")))
    ]
    assert all(path.stat().st_size > 0 for path in report.files)
    assert sorted(folder.iterdir()) == sorted(report.files)
    assert (report.title, report.finished, len(report.data)) == ("demo", "2 of 3", 1)
    assert report.data[0].startswith("Digits (digits, sha256 ")
    (row,) = report.tables["linear"]
    assert row.measured["student"].mean == pytest.approx(0.45 if which == "last" else 0.5)
    assert row.runs_text == "2 of 3 (1 missing)"
    plain = json.loads((folder / "tables.json").read_text())
    assert (plain["which"], plain["tables"]) == (which, json.loads(json.dumps({"linear": [row.to_json()]})))


def test_a_figure_beside_the_papers_numbers_names_its_data_set(store: Store, points: list[Point]) -> None:
    sweep = SweepRuns(SweepSpec(name="demo", base=BASE, experiment="fig1"), points, store)
    report = make_report([sweep], "last", NOTHING_HERE)
    assert [each.title for each in report.pictures] == ["Figure 1, linear probe, Digits, with the paper's axes."]


def test_the_curves_of_a_sweep_are_accuracies_above_gains(
    store: Store, point: Make, result: Make, finish: Make
) -> None:
    places = [point({"student.alpha": alpha, "projector.out_dim": outputs}) for outputs in (2, 3, 4, 5, 6, 7, 8)
              for alpha in (0.5, 1.0)]  # fmt: skip
    for each in places:
        finish(store, each, result(0.4, 0.2, 0.6))
    report = make_report([SweepRuns(SweepSpec(name="demo", base=BASE), places, store)], "last", NOTHING_HERE)
    picture, gain = report.pictures
    assert picture.title == "demo, linear probe, Digits."
    assert gain.title == "demo, gain over own teacher, linear probe, Digits, student after its last epoch."
    text = picture.svg.read_text()
    shown = ("alpha = 0.5", "alpha = 1<", "probing accuracy (%)", "gain over own teacher (points)", "2 more panels")
    assert all(words in text for words in shown)
    assert text.count("outputs 7") == 2
    assert "outputs 8" not in text


def test_sweeps_of_one_experiment_have_a_folder_of_their_own(store: Store, points: list[Point]) -> None:
    sweeps = [SweepRuns(SweepSpec(name=name, base=BASE, experiment="fig1"), part, store)
              for name, part in (("a", points[:1]), ("b", points[1:]))]  # fmt: skip
    report = make_report(sweeps, "last", NOTHING_HERE)
    assert (report.folder, report.finished) == (store.sweep("a").report / "with-b", "2 of 3")
    with pytest.raises(InputError, match="distinct names; given: a, a"):
        make_report([sweeps[0], sweeps[0]], "last", NOTHING_HERE)


def test_a_sweep_without_a_finished_run_has_no_report(store: Store, points: list[Point]) -> None:
    with pytest.raises(InputError, match="None of the 1 runs of sweep 'demo' is finished"):
        make_report([SweepRuns(SweepSpec(name="demo", base=BASE), points[2:], store)], "last", NOTHING_HERE)
    assert not store.sweep("demo").report.exists()
