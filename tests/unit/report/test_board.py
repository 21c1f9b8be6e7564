"""What the board tells when it opens, without opening it, and the reports that it makes for their figures."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.other_data import DataHere
from rt_scale.report import board as module
from rt_scale.report.board import MOST_TICKED, ReportFigures, few, open_board
from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
ADDRESS = "http://here/"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server is started with; it tells its address, looks again once, and ends."""
    given: dict[str, Any] = {}

    def serve(folder: Path, ready: Callable[[str], None], *, refresh: Callable[[], None], **more: Any) -> None:
        given.update(more, folder=folder)
        ready(ADDRESS)
        refresh()

    monkeypatch.setattr(module, "serve", serve)
    return given


def loaded(store: Store, name: str, values: int) -> SweepRuns:
    norms = {"encoder.norm": ["none", "batch"]}
    axes = {**norms, "student.alpha": [number / values for number in range(values)]}
    sweep = SweepSpec(name=name, base=BASE, axes=axes)
    return SweepRuns(sweep, expand(sweep), store)


@pytest.mark.parametrize("every_run", [False, True])
def test_what_is_served_and_where_figures_are(tmp_path: Path, served: dict[str, Any], every_run: bool) -> None:
    said: list[str] = []
    asked: list[None] = []
    store = Store(tmp_path)
    sweeps = [loaded(store, "a", 2), loaded(store, "b", 2)]
    open_board(sweeps, store, host="h", port=7, say=said.append, every_run=every_run,
               figures=lambda: asked.append(None), interval=3.0)  # fmt: skip
    folder = tmp_path / "sweeps" / "a" / ("board-with-b-runs" if every_run else "board-with-b")
    assert served == {"folder": folder, "title": "a, b", "host": "h", "port": 7, "interval": 3.0}
    assert said[0] == f"TensorBoard: {ADDRESS} (Ctrl-C ends it)"
    assert ("--runs" in said[1]) != every_run
    assert said[2:] == [f"  Figures of the report: {ADDRESS}#images&regexInput=%5Esweep%24"]
    assert asked == [None]


@pytest.mark.parametrize(("every_run", "prefix"), [(False, "%5E"), (True, "%5Emean/")])
def test_of_many_runs_some_are_pointed_out(
    tmp_path: Path, served: dict[str, Any], every_run: bool, prefix: str
) -> None:
    said: list[str] = []
    sweeps = [loaded(Store(tmp_path), "a", MOST_TICKED)]
    open_board(sweeps, Store(tmp_path), host="h", port=0, say=said.append, every_run=every_run)
    assert said[-1].endswith(f": {ADDRESS}#custom_scalars&regexInput={prefix}norm%3Dbatch%2C")


def test_few_of_many_names() -> None:
    names = [f"a={a},b={b},c={c}" for a in (1, 10) for b in (1, 2) for c in (1, 2, 3)]
    assert few(names, 6) == "a=1,"
    assert few(names, 5) == "a=1,b=1,"
    assert few(names, 2) == "a=1,b=1,c=1"
    assert few(["base"], 40) == "base"


def test_a_store_that_does_not_answer_for_a_while_is_waited_for(
    tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(self: Store, *, curves: bool = True, younger: float = 0.0) -> None:
        if younger:
            raise StoreAway("away")

    monkeypatch.setattr(Store, "refresh", refresh)
    open_board([loaded(Store(tmp_path), "a", 2)], Store(tmp_path), host="h", port=0, say=print)
    assert served["title"] == "a"


def test_what_cannot_be_shown_is_refused(tmp_path: Path, served: dict[str, Any]) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="names of their own; given: a, a"):
        open_board([loaded(store, "a", 2), loaded(store, "a", 1)], store, host="h", port=0, say=print)
    with pytest.raises(InputError, match="There are no runs in"):
        open_board([], store, host="h", port=0, say=print)
    (store.root / "runs").mkdir(parents=True)
    open_board([], store, host="h", port=0, say=print)
    assert (served["folder"], served["title"]) == (store.root / "runs", "store")


SWEEP = SweepSpec(
    name="a", base={"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}, axes={"student.alpha": [0.5, 1.0]}
)


class Reports:
    """Stands in for the report, and remembers whether the best epoch was asked for."""

    def __init__(self, store: Store) -> None:
        self.store, self.sweep = store, SweepRuns(SWEEP, POINTS, store)
        self.asked: list[str] = []
        self.said: list[str] = []
        self.error: InputError | None = None

    def finish(self, point: Point, date: int) -> None:
        path = self.store.run(point.spec).path / RESULT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (date, date))

    def write(self, which: str, date: int) -> None:
        folder = self.store.sweep("a").report
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tables.json").write_text(json.dumps({"which": which}))
        (folder / "report.md").touch()
        os.utime(folder / "report.md", (date, date))

    def make(self, sweeps: list[SweepRuns], which: str, here: DataHere) -> None:
        assert (sweeps, here) == ([self.sweep], HERE)
        self.asked.append(which)
        if self.error is not None:
            raise self.error


POINTS = expand(SWEEP)
HERE = DataHere(Path("nowhere"))


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reports:
    made = Reports(Store(tmp_path))
    monkeypatch.setattr(module, "make_report", made.make)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    return made


def renewing(reports: Reports) -> Callable[[], None]:
    """Renews, and waits for it."""
    figures = ReportFigures([reports.sweep], reports.said.append, HERE)

    def renew() -> None:
        figures()
        figures.wait()

    return renew


def test_a_report_is_made_where_there_is_none_and_again_as_runs_finish(reports: Reports) -> None:
    renew = renewing(reports)
    renew()
    assert reports.asked == []
    for number, point in enumerate(POINTS):
        reports.finish(point, 100)
        renew()
        renew()
        assert reports.asked == ["last"] * (number + 1)
    reports.finish(POINTS[0], 200)
    renew()
    assert reports.asked == ["last"] * 3


@pytest.mark.parametrize(("date", "asked"), [(150, []), (50, ["best"])])
def test_a_report_that_knows_all_finished_runs_is_left_and_another_keeps_its_epoch(
    reports: Reports, date: int, asked: list[int]
) -> None:
    reports.finish(POINTS[0], 100)
    reports.write("best", date)
    renewing(reports)()
    assert reports.asked == asked


def test_a_damaged_report_is_made_again(reports: Reports) -> None:
    reports.finish(POINTS[0], 100)
    reports.write("best", 50)
    (reports.store.sweep("a").report / "tables.json").write_text("{")
    renewing(reports)()
    assert reports.asked == ["last"]


def test_why_no_report_can_be_made_is_said_once(reports: Reports) -> None:
    reports.finish(POINTS[0], 100)
    reports.error = InputError("The runs were on different data.")
    renew = renewing(reports)
    renew()
    renew()
    assert reports.said == ["No new figures of 'a': The runs were on different data."]


def test_making_reports_takes_a_small_part_of_the_time(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "PAUSE", 20.0)
    monkeypatch.setattr(
        module, "make_report", lambda *_: (reports.asked.append("last"), now.__setitem__(0, now[0] + 3))
    )
    renew = renewing(reports)
    asked = []
    for number, at in enumerate((0.0, 62.0, 63.0)):
        reports.finish(POINTS[0], 100 + number)
        now[0] = at
        renew()
        asked.append(len(reports.asked))
    assert asked == [1, 1, 2]


def test_looking_does_not_wait_for_a_report(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()
    monkeypatch.setattr(module, "make_report", lambda *_: (reports.asked.append("last"), made.wait(60)))
    look = ReportFigures([reports.sweep], reports.said.append, HERE)
    for number in range(3):
        reports.finish(POINTS[0], 100 + number)
        look()
    made.set()
    look.wait()
    assert reports.asked == ["last"]
    look()
    look.wait()
    assert reports.asked == ["last"] * 2
