"""How runs stand, as their directories say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt_scale.report.serving.running import RunningRow, counts_text, running_rows
from rt_scale.report.status import StatusRow, status_of_sweep
from rt_scale.spec.grid import Point
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.records import run_record

BEGAN = 1000.0


@pytest.fixture
def place(point: Callable[..., Point]) -> Point:
    return point({"student.alpha": 0.5, "train.epochs": 10})


@pytest.fixture
def run(tmp_path: Path, place: Point) -> Iterator[RunDir]:
    """A run that this process holds, of 10 epochs, begun at 1,000 s."""
    run = Store(tmp_path / "store").run(place.spec)
    with run.acquire():
        run.write_spec(place.spec)
        run.write_record(run_record({"time": BEGAN, "host": "here"}))
        yield run


def measure(run: RunDir, monkeypatch: pytest.MonkeyPatch, *rows: tuple[float, int, float]) -> None:
    """Write metrics measured at (time, step, epoch)."""
    table = MetricsTable(run.metrics_path)
    for time, step, epoch in rows:
        monkeypatch.setattr("time.time", lambda time=time: time)
        table.append(step, epoch, {"train/loss": 1.0})
    monkeypatch.undo()
    table.flush()


def row(run: RunDir, place: Point, now: float) -> RunningRow:
    store = Store(run.path.parents[1])
    (found,) = running_rows(status_of_sweep([place], store), {place.spec.name: place.spec}, store, now)
    return found


def test_a_run_that_has_measured_nothing_yet(run: RunDir, place: Point) -> None:
    assert row(run, place, 1010.0) == RunningRow(place.label, place.spec.name, "cpu on here", "0 of 10")


def test_epochs_and_time_left_follow_from_what_was_measured(
    run: RunDir, place: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(run, monkeypatch, (1010.0, 0, 0.0), (1030.0, 200, 2.0), (1050.0, 400, 4.0))
    found = row(run, place, 1055.0)  # ten seconds an epoch, the newest five seconds ago
    assert (found.progress, found.left) == ("4 of 10", "55s")
    assert row(run, place, 9999.0).left == "1s"


def test_the_speed_is_that_of_this_attempt(run: RunDir, place: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(run, monkeypatch, (10.0, 0, 0.0), (900.0, 200, 2.0))
    assert (row(run, place, 1001.0).progress, row(run, place, 1001.0).left) == ("2 of 10", "")
    measure(run, monkeypatch, (900.0, 200, 2.0), (1010.0, 300, 3.0), (1015.0, 400, 4.0))
    assert row(run, place, 1015.0).left == "30s"


def test_what_cannot_be_read_is_not_told(run: RunDir, place: Point) -> None:
    run.metrics_path.write_bytes(b"half a file")
    assert row(run, place, 1001.0) == RunningRow(place.label, place.spec.name)


def test_a_gpu_is_named(run: RunDir, place: Point) -> None:
    gpu = {"gpu": {"memory": 1}, "device": "NVIDIA H200", "host": "far"}
    run.write_record(run_record(gpu, execution={"device": "cuda:1"}))
    assert row(run, place, 1001.0).where == "cuda:1 (NVIDIA H200) on far"


def test_runs_are_counted_in_words() -> None:
    states = ["done", "done", "running", "failed", "ended", "partial", "missing", "missing"]
    rows = [StatusRow(str(number), str(number), state, 1, "") for number, state in enumerate(states)]
    text = "2 of 10 done, 1 running, 1 failed, 1 ended early, 1 interrupted, 4 to start"
    assert counts_text(rows, to_sample=2) == text
    assert counts_text(rows[:2], 0) == "2 of 2 done"
