"""Sweeps from Python, whose runs are done already; tests/integration/test_python.py executes some."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import rt_scale as rt
from rt_scale.ray_backend import terminal
from rt_scale.ray_backend.sweep import SweepOutcome
from tests.unit.api.conftest import TINY

SWEEP = {"name": "small", "base": TINY, "axes": {"student.alpha": [0.25, 0.5]}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


def run_all(places: dict[str, Any], *alphas: float) -> None:
    for alpha in alphas:
        rt.run(rt.load(TINY, {"student.alpha": alpha}), **places)


def test_a_sweep_of_finished_runs(file: Path, places: dict[str, Any]) -> None:
    run_all(places, 0.25, 0.5)
    sweep = rt.sweep(file, **places)
    assert repr(sweep) == "Sweep('small', 2 runs)"
    assert [run.spec.student.alpha for run in sweep.runs] == [0.25, 0.5]
    assert not sweep.failed
    table = sweep.table()
    assert isinstance(table, pa.Table)
    assert table["student.alpha"].to_pylist() == [0.25, 0.5]
    assert table["status"].to_pylist() == ["done", "done"]
    assert table["same_data_here"].to_pylist() == [True, True]
    results = [run.result for run in sweep.runs]
    assert table["last/probe/student/knn"].to_pylist() == [each and each.last["probe/student/knn"] for each in results]
    page = sweep.report()
    assert page.name == "report.html"
    assert "after its last epoch" in page.read_text()
    assert "at its best probed epoch" in sweep.report(best=True).read_text()
    assert sweep.watch() == {"runs": 2, "done": 2, "running": 0, "failed": 0, "ended": 0, "partial": 0, "missing": 0}
    store = rt.open_store(places["store"], data_dir=places["data_dir"])
    assert store.sweeps == ["small"]
    assert store.sweep("small").table() == table
    with pytest.raises(rt.InputError, match="Did you mean 'small'"):
        store.sweep("smal")


def test_arguments_reach_the_sweep(file: Path, places: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run_sweeps(sweeps: Any, where: Any, view: Any, *_: Any) -> list[SweepOutcome]:
        with view(2, 0) as shown:
            shown.said("a note")
        calls.append((sweeps[0], where))
        return [SweepOutcome(failed={"alpha=0.25": "it broke"})]

    monkeypatch.setattr(terminal, "run_sweeps", run_sweeps)
    given = {"address": "auto", "concurrency": 3, "retry_failed": True, "launch": {"cpus": 2, "pack": 4}}
    sweep = rt.sweep(file, {"student.alpha": [0.1, 0.2, 0.3], "train.epochs": 1}, **places, **given)  # type: ignore[arg-type]
    assert sweep.failed == {"alpha=0.25": "it broke"}
    ((swept, where),) = calls
    assert [point.spec.student.alpha for point in swept.points] == [0.1, 0.2, 0.3]
    assert {point.spec.train.epochs for point in swept.points} == {1}
    assert (swept.spec.launch.cpus, swept.spec.launch.pack) == (2, 4)
    assert (where.device, where.address, where.concurrency) == ("cpu", "auto", 3)
    assert (where.retry_failed, where.replace, where.data_dir) == (True, False, places["data_dir"])
    rt.sweep(file, **places, yes=True)
    assert calls[-1][1].replace
    with pytest.raises(rt.InputError, match="launch is not valid: cpsu"):
        rt.sweep(file, **places, launch={"cpsu": 2})


def test_progress_is_shown_on_request(
    file: Path, places: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run_sweeps(sweeps: Any, where: Any, view: Any, *_: Any) -> list[SweepOutcome]:
        with view(2, 0) as shown:
            os.write(1, b"of Ray\n")
            shown.finished("one", None, {})
        return [SweepOutcome()]

    monkeypatch.setattr(terminal, "run_sweeps", run_sweeps)
    rt.sweep(file, **places)
    assert not capfd.readouterr().out
    rt.sweep(file, **places | {"progress": True})
    shown = capfd.readouterr().out
    assert "one" in shown
    assert "of Ray" not in shown
    with contextlib.redirect_stdout(io.StringIO()) as notebook:  # a standard output that is no file descriptor
        rt.sweep(file, **places | {"progress": True})
    assert "one" in notebook.getvalue()
    assert not capfd.readouterr().out
    log = places["store"] / "sweeps" / "small" / "ray.log"
    assert log.read_text().count("of Ray") == 3


def test_failed_runs_are_named(file: Path, places: dict[str, Any]) -> None:
    run_all(places, 0.25, 0.5)
    rt.sweep(file, **places)
    store = rt.open_store(places["store"])
    run = store.sweep("small").runs[1]
    (run.path / "result.json").unlink()
    with run._dir.acquire():
        run._dir.fail({"reason": "it broke", "time": 0.0})
    sweep = store.sweep("small")
    assert list(sweep.failed.values()) == ["it broke"]
    assert sweep.watch()["failed"] == 1


def test_a_sweep_is_watched_until_its_runs_are_done(file: Path, places: dict[str, Any]) -> None:
    run_all(places, 0.25, 0.5)
    rt.sweep(file, **places)
    sweep = rt.open_store(places["store"]).sweep("small")
    result = sweep.runs[1].path / "result.json"
    text = result.read_bytes()
    result.unlink()
    began = time.monotonic()
    assert sweep.watch(every=0.05, timeout=0.3)["done"] == 1
    assert time.monotonic() - began < 5
    later = threading.Timer(0.3, lambda: result.write_bytes(text))
    later.start()
    assert sweep.watch(every=0.05)["done"] == 2
    later.join()
