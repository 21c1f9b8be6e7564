"""The reports that the board makes for their figures."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.cli import figures, reporting
from rt_scale.cli.figures import ReportFigures
from rt_scale.experiments.other_data import DataHere
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

SWEEP = SweepSpec(
    name="a", base={"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}, axes={"student.alpha": [0.5, 1.0]}
)


class Reports:
    """Stands in for the report, and remembers whether the best epoch was asked for."""

    def __init__(self, store: Store) -> None:
        self.store, self.sweep = store, SweepRuns(SWEEP, POINTS, store)
        self.asked: list[int] = []
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

    def make(self, sweep: SweepRuns, best: bool, here: DataHere) -> Any:
        assert (sweep, here) == (self.sweep, HERE)
        self.asked.append(int(best))
        if self.error is not None:
            raise self.error


POINTS = expand(SWEEP)
HERE = DataHere(Path("nowhere"))


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reports:
    made = Reports(Store(tmp_path))
    monkeypatch.setattr(reporting, "make_report", made.make)
    monkeypatch.setattr(figures, "PAUSE", 0.0)
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
        assert reports.asked == [0] * (number + 1)
    reports.finish(POINTS[0], 200)
    renew()
    assert reports.asked == [0, 0, 0]


@pytest.mark.parametrize(("date", "asked"), [(150, []), (50, [1])])
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
    assert reports.asked == [0]


def test_why_no_report_can_be_made_is_said_once(reports: Reports) -> None:
    reports.finish(POINTS[0], 100)
    reports.error = InputError("The runs were on different data.")
    renew = renewing(reports)
    renew()
    renew()
    assert reports.said == ["No new figures of 'a': The runs were on different data."]


def test_making_reports_takes_a_small_part_of_the_time(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(figures.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(figures, "PAUSE", 20.0)
    monkeypatch.setattr(reporting, "make_report", lambda *_: (reports.asked.append(0), now.__setitem__(0, now[0] + 3)))
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
    monkeypatch.setattr(reporting, "make_report", lambda *_: (reports.asked.append(0), made.wait(60)))
    look = ReportFigures([reports.sweep], reports.said.append, HERE)
    for number in range(3):
        reports.finish(POINTS[0], 100 + number)
        look()
    made.set()
    look.wait()
    assert reports.asked == [0]
    look()
    look.wait()
    assert reports.asked == [0, 0]
