"""A sweep through a real local Ray: done once, grown, failing in part, and killed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rt_scale.launch import sweep as launched
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from tests.integration.sweeping import SWEEP, Place, training, until, workers

Start = Callable[..., subprocess.Popen[str]]
GROWN = {"axes": {"projector.out_dim": [16, 32], "student.alpha": [1.0], "train.optimizer.lr": [0.001, 1e30]}}
"""One of the four again, one more, and two that diverge."""


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    return out, err


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Place, str]:
    """The sweep, done once and undisturbed, with what was printed."""
    place = Place(tmp_path_factory.mktemp("swept"), data_dir)
    program = Path(sys.executable).with_name("rt-scale")
    done = subprocess.run([program, *place.command], capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return place, done.stdout


def test_a_sweep_runs_everything_and_prints_its_table(swept: tuple[Place, str]) -> None:
    place, out = swept
    lines = out.splitlines()
    for point in place.points:
        result = place.store.run(point.spec).result()
        assert result is not None
        student, teacher = (f"{100 * result['last'][f'probe/{role}/linear']:.1f}" for role in ("student", "teacher"))
        (row,) = (line for line in lines if f"] {point.label}  linear {student} (teacher {teacher})" in line)
        assert row.startswith("[")
    # Beside them a machine that is slow today says every half minute that it is alive.
    assert [line[:5] for line in lines if line.startswith("[")] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "linear probe: test accuracy in %" in out
    assert "4 of 4 runs finished. Written:" in out


def test_a_sweep_leaves_tables_and_figures(swept: tuple[Place, str]) -> None:
    place, out = swept
    report = place.store.sweep("small").report
    for name in ("tables.md", "tables.json", "curves-linear.png", "curves-knn.png"):
        assert f"  {report / name}" in out
        assert (report / name).is_file()
    for name in ("linear", "knn"):
        with Image.open(report / f"curves-{name}.png") as image:
            image.load()
            assert image.width > 500
            assert len(image.convert("RGB").getcolors(2**24) or []) > 10
    tables = json.loads((report / "tables.json").read_text())["tables"]
    assert set(tables) == {"linear", "knn"}
    for row, point in zip(tables["linear"], place.points, strict=True):
        assert row["values"] == point.values
        assert row["student"]["mean"] == place.outcome(point)[2][0]["probe/student/linear"]
    assert (report.parent / "board").is_dir()
    assert yaml.safe_load(place.store.sweep("small").file.read_text()) == SWEEP


def test_a_finished_sweep_is_not_run_again(swept: tuple[Place, str], cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = swept

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(launched, "_run", refuse)
    before = place.times()
    again = cli(*place.command)
    assert again.code == 0, again
    assert "4 of 4 runs finished" in again.out
    assert place.times() == before
    assert "4 runs: 4 done" in cli("status", place.file, "--store", place.store.root).out


def test_a_grown_sweep_runs_what_is_new_and_names_what_failed(swept: tuple[Place, str], start: Start, cli: Any) -> None:
    place, _ = swept
    before = place.times()
    place.change(GROWN)
    try:
        process = start(*place.command)
        out, err = ended(process)
        assert process.returncode == 1, (out, err)
        points = {point.label: place.store.run(point.spec) for point in place.points}
        failed = {label for label in points if "lr=1e+30" in label}
        assert len(failed) == 2
        told = err.splitlines()
        assert len(told) == 2
        for label in failed:
            (line,) = (line for line in told if line.startswith(f"rt-scale: {label} has no result: "))
            assert "training diverged. Lower train.optimizer.lr" in line
            assert f"{label}  FAILED: " in out
        assert "2 of 4 runs finished" in out
        assert "[2/4]" in out
        assert "[1/4]" not in out
        after = place.times()
        assert len(after) == len(before) + 1
        assert before.items() <= after.items()
        rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)
        assert {row["label"] for row in rows if row["state"] == "failed"} == failed
        assert all("diverged" in row["detail"] for row in rows if row["label"] in failed)
        assert {row["state"] for row in rows if row["label"] not in failed} == {"done"}

        # Run again, it leaves those alone, unless it is told to try them.
        attempts = {label: run_dir.status().attempts for label, run_dir in points.items()}
        out, err = ended(start(*place.command))
        assert [line.count("diverged") for line in err.splitlines()] == [1, 1]
        assert err.count("tried again with --retry-failed") == 2
        assert {label: run_dir.status().attempts for label, run_dir in points.items()} == attempts
        ended(start(*place.command, "--retry-failed"))
        for label, run_dir in points.items():
            assert run_dir.status().attempts == attempts[label] + (label in failed)
    finally:
        place.change({})


def test_a_sweep_survives_whatever_is_killed(
    swept: tuple[Place, str], tmp_path: Path, data_dir: Path, start: Start, wait_for: Any, cli: Any, living: Any
) -> None:
    place = Place(tmp_path, data_dir)

    def states() -> set[str]:
        rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)
        return {row["state"] for row in rows}

    # The user asks it to stop.
    process = start(*place.command)
    wait_for(lambda: training(place), process)
    assert "running" in states()
    stopped = [workers(place)[pid] for pid in training(place)]
    process.send_signal(signal.SIGTERM)
    out, err = ended(process)
    assert "stopping: a checkpoint is written first" in out
    assert err == "rt-scale: interrupted; the same command goes on from the last checkpoints.\n"
    assert process.returncode == 130
    until(lambda: not living(process.pid))
    assert states() <= {"partial", "missing", "done"}
    assert "partial" in states()
    # Those that were training did not lose a step.
    logs = [read_metrics(path / "metrics.parquet")["step"].to_pylist() for path in stopped]
    assert logs
    for path, steps in zip(stopped, logs, strict=True):
        assert RunDir(path).checkpoints.steps()[-1] >= max(steps)

    # The driver dies: its trials go with it.
    process = start(*place.command)
    wait_for(lambda: training(place), process)
    process.kill()
    process.wait()
    until(lambda: not workers(place))
    assert "running" not in states()
    assert "partial" in states()

    # A trial dies: it is started again within the sweep.
    process = start(*place.command)
    wait_for(lambda: training(place), process)
    pid, killed = next((pid, path) for pid, path in workers(place).items() if pid in training(place))
    attempts = RunDir(killed).status().attempts
    os.kill(pid, signal.SIGKILL)
    out, err = ended(process)
    assert (process.returncode, err) == (0, ""), out
    assert (RunDir(killed).status().state, RunDir(killed).status().attempts) == ("done", attempts + 1)
    undisturbed, _ = swept
    assert [place.outcome(point) for point in place.points] == [undisturbed.outcome(point) for point in place.points]
