"""A sweep through a real local Ray: done once, grown, failing in part, and killed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rt_scale.launch import sweep as launched
from rt_scale.spec.sweep import Point, load_sweep
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

Start = Callable[..., subprocess.Popen[str]]
SWEEP: dict[str, Any] = {
    "name": "small",
    "base": {
        "data": {"name": "digits"},
        "encoder": {"name": "convnet_8_2", "norm": "batch"},
        "projector": {"hidden": [32], "bottleneck": 16},
        "train": {"epochs": 30, "batch_size": 128, "optimizer": {"name": "sgd", "lr": 0.001}},
        "probe": {"every": "3ep", "epochs": 2, "standardized": False},
    },
    "axes": {"student.alpha": [1e-10, 1.0], "projector.out_dim": [16, 64]},
}
"""Four runs of about two seconds."""
GROWN = {"axes": {"projector.out_dim": [16, 32], "student.alpha": [1.0], "train.optimizer.lr": [0.001, 1e30]}}
"""One of the four again, one more, and two that diverge."""


class Place:
    """A sweep file with its store, and the command that a user repeats."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.store = Store(folder / "store")
        self.data_dir = data_dir
        self.file = folder / "small.yaml"
        self.change({})

    def change(self, changes: dict[str, Any]) -> None:
        self.file.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))

    @property
    def command(self) -> list[str]:
        return ["sweep", str(self.file), "--store", str(self.store.root), "--data-dir", str(self.data_dir)]

    @property
    def points(self) -> list[Point]:
        return load_sweep(self.file)[1]

    def outcome(self, point: Point) -> tuple[bytes, Any, Any]:
        """What must not depend on what happened on the way."""
        run_dir = self.store.run(point.spec)
        result = run_dir.result()
        assert result is not None, point.label
        weights = run_dir.path / "checkpoints" / str(result["steps"]) / "student.safetensors"
        metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
        return weights.read_bytes(), metrics, (result["last"], result["best"])

    def times(self) -> dict[str, int]:
        """When each result was written."""
        return {str(path): path.stat().st_mtime_ns for path in self.store.root.glob("runs/*/result.json")}


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

    monkeypatch.setattr(launched, "run_points", refuse)
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
    finally:
        place.change({})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def workers(place: Place) -> dict[int, Path]:
    """Living processes that hold a run, with its directory."""
    found = {}
    for point in place.points:
        path = place.store.run(point.spec).path
        leases = sorted((path / "lease").glob("[0-9]*.json"), key=lambda lease: int(lease.stem))
        if leases and not (path / "result.json").exists():
            pid = json.loads(leases[-1].read_text())["pid"]
            if alive(pid):
                found[pid] = path
    return found


def training(place: Place) -> list[int]:
    """Those processes that have trained for an epoch at least."""
    return [pid for pid, path in workers(place).items() if any((path / "checkpoints").glob("[1-9]*"))]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert err == "rt-scale: interrupted; the same command goes on from the last checkpoints.\n"
    assert process.returncode == 130
    until(lambda: not living(process.pid))
    assert states() <= {"partial", "missing", "done"}
    assert "partial" in states()

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
