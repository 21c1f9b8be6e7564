"""A sweep through a real local Ray: done once, grown, failing in part, and killed from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.ray_backend import sweep as launched
from rt_scale.spec.errors import ExitCode
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from tests.integration.joining import name_of, told
from tests.integration.sweeping import SLOW, SWEEP, Place, paused, slow_down, training, until

Start = Callable[..., subprocess.Popen[str]]
GROWN = {"axes": {"projector.out_dim": [16, 32], "student.alpha": [1.0], "train.optimizer.lr": [0.001, 1e30]}}
"""One of the four again, one more, and two that diverge."""


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=480)
    return out, err


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Place, str]:
    """The sweep, done once and undisturbed, with what was printed."""
    place = Place(tmp_path_factory.mktemp("swept"), data_dir)
    program = Path(sys.executable).with_name("rt-scale")
    done = subprocess.run([program, *place.command], capture_output=True, text=True, timeout=480, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return place, done.stdout


def test_a_sweep_runs_everything_and_prints_its_table(swept: tuple[Place, str]) -> None:
    place, out = swept
    lines = out.splitlines()
    for point in place.points:
        result = place.store.run(point.spec).result()
        assert result is not None
        student, teacher = (f"{100 * result.last[f'probe/{role}/linear']:.1f}" for role in ("student", "teacher"))
        (row,) = (line for line in lines if f"] {point.label}  linear {student} (teacher {teacher})" in line)
        assert row.startswith("[")
    # Beside them a machine that is slow today says every half minute that it is alive.
    assert [line[:5] for line in lines if line.startswith("[")] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "linear probe, Digits: test accuracy in %" in out
    assert "4 of 4 runs finished. Written to" in out


def test_a_sweep_leaves_tables_and_figures(swept: tuple[Place, str]) -> None:
    place, out = swept
    report = place.store.sweep("small").report
    for name in ("report.md", "tables.json", "curves-linear.png", "curves-knn.png"):
        assert name in out
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


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("Ray was asked for")


def test_a_finished_sweep_is_not_run_again(swept: tuple[Place, str], cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place, _ = swept
    monkeypatch.setattr(launched, "_run", refuse)
    before = place.times()
    again = cli(*place.command)
    assert again.code == 0, again
    assert "4 of 4 runs finished" in again.out
    assert place.times() == before
    assert "4 runs: 4 done" in cli("status", place.file, "--store", place.store.root).out


def test_a_grown_sweep_runs_what_is_new_and_names_what_failed(
    swept: tuple[Place, str],
    tmp_path: Path,
    data_dir: Path,
    start: Start,
    cli: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A copy: xdist may give a test that looks at the sweep to this worker later.
    shutil.copytree(swept[0].file.parent, tmp_path / "grown")
    place = Place(tmp_path / "grown", data_dir)
    before = place.times()
    place.change(GROWN)
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
    rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)["runs"]
    assert {row["label"] for row in rows if row["state"] == "failed"} == failed
    assert all("diverged" in row["detail"] for row in rows if row["label"] in failed)
    assert {row["state"] for row in rows if row["label"] not in failed} == {"done"}

    # Run again, it leaves those alone and starts no Ray, unless it is told to try them.
    attempts = {label: run_dir.status().attempts for label, run_dir in points.items()}
    with monkeypatch.context() as without_ray:
        without_ray.setattr(launched, "_run", refuse)
        again = cli(*place.command)
    assert [line.count("diverged") for line in again.err.splitlines()] == [1, 1]
    assert again.err.count("tried again with --retry-failed") == 2
    assert {label: run_dir.status().attempts for label, run_dir in points.items()} == attempts
    ended(start(*place.command, "--retry-failed"))
    for label, run_dir in points.items():
        assert run_dir.status().attempts == attempts[label] + (label in failed)


@dataclass
class Kills:
    """A sweep that is stopped and killed in several ways."""

    place: Place
    start: Start
    wait_for: Any
    cli: Any
    living: Any

    def begin(self) -> Any:
        """A driver, two of whose runs train."""
        process = self.start(*self.place.command, "--concurrency", 2)
        self.wait_for(lambda: training(self.place), process)
        return process

    def states(self) -> set[str]:
        rows = json.loads(self.cli("status", self.place.file, "--store", self.place.store.root, "--json").out)["runs"]
        return {row["state"] for row in rows}

    def trials(self, driver: int) -> list[int]:
        return [pid for pid in self.living(driver) if name_of(pid).startswith("ray::Implicit")]

    def stop(self, number: signal.Signals) -> None:
        """The driver is asked to stop: its terminal is closed, or Ctrl-C ends the reader of its output first.

        SIGTERM to every process, as Slurm sends it to a step, is in clusters/test_slurm.py.
        """
        process = self.begin()
        with paused(self.place) as held:
            assert "running" in self.states()
            stopped = [path for pid, path in held.items() if pid in training(self.place)]
            if number == signal.SIGINT:
                process.stdout.close()
                process.stdout = None
            os.killpg(process.pid, number)
            if number == signal.SIGHUP:  # of which the shell and the terminal send one each
                os.killpg(process.pid, number)
                told(process, "stopping: a checkpoint is written first")
            time.sleep(1)  # until runs can hear of it
        _, err = ended(process)
        assert err == "rt-scale: interrupted; the same command resumes from the last checkpoints.\n"
        assert process.returncode == 130
        until(lambda: not self.living(process.pid))
        assert self.states() <= {"partial", "missing", "done"}
        assert "partial" in self.states()
        # Those that were training did not lose a step.
        logs = [read_metrics(path / "metrics.parquet")["step"].to_pylist() for path in stopped]
        assert logs
        for path, steps in zip(stopped, logs, strict=True):
            assert RunDir(path).checkpoints.steps()[-1] >= max(steps)

    def kill(self) -> None:
        """A trial dies: it is started again within the sweep. Then the driver: its trials go with it."""
        process = self.begin()
        with paused(self.place) as held:
            pid, killed = next((pid, path) for pid, path in held.items() if pid in training(self.place))
            attempts = RunDir(killed).status().attempts
            os.kill(pid, signal.SIGKILL)
        self.wait_for(lambda: RunDir(killed).status().attempts > attempts, process)
        with paused(self.place):
            assert self.trials(process.pid)
            process.kill()
            process.wait()
        until(lambda: not self.trials(process.pid))
        # Ray needs two seconds for that, in which a fast machine ends these two; nobody is there to start the others.
        assert self.states() <= {"partial", "missing", "done"}
        assert RunDir(killed).status().attempts == attempts + 1


def test_a_sweep_survives_whatever_is_killed(
    swept: tuple[Place, str], tmp_path: Path, data_dir: Path, start: Start, wait_for: Any, cli: Any, living: Any
) -> None:
    place, (undisturbed, _) = Place(tmp_path, data_dir), swept
    kills = Kills(place, start, wait_for, cli, living)
    kills.stop(signal.SIGHUP)
    kills.stop(signal.SIGINT)
    kills.kill()
    out, err = ended(start(*place.command))
    assert err == "", out
    assert [place.outcome(point) for point in place.points] == [undisturbed.outcome(point) for point in place.points]


def test_at_its_deadline_a_sweep_keeps_what_it_has_and_goes_on_later(
    tmp_path: Path, data_dir: Path, start: Start, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, data_dir)
    base = {**SLOW, "train": {**SLOW["train"], "epochs": 20}}  # two minutes; to start Ray may take one
    place.change({"base": base, "axes": {"projector.out_dim": [16, 64]}})
    gate = slow_down(tmp_path)
    monkeypatch.setenv("SLOW", str(gate))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    late = start(*place.command, "--concurrency", 1, "--deadline", "90s")
    out, err = ended(late)
    assert late.returncode == ExitCode.DEADLINE, out + err
    assert "has passed: checkpoints are written" in out
    rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)["runs"]
    assert [row["state"] for row in rows] == ["partial", "missing"]
    first = place.store.run(place.points[0].spec)
    assert first.checkpoints.steps()[-1] > 0

    gate.unlink()
    out, err = ended(start(*place.command))
    assert err == "", out
    assert first.status().attempts == 2
    undisturbed = Place(tmp_path / "undisturbed", data_dir)
    undisturbed.file.write_text(place.file.read_text())
    for point in place.points:
        run(point.spec, Options(store=undisturbed.store, data_dir=data_dir, device="cpu", threads=1))
        assert place.outcome(point) == undisturbed.outcome(point)


def test_several_files_are_one_queue_and_what_others_start_from_runs_once(
    tmp_path: Path, data_dir: Path, start: Start
) -> None:
    place, other = Place(tmp_path, data_dir), tmp_path / "other.yaml"
    base = {**SWEEP["base"], "train": {**SWEEP["base"]["train"], "epochs": 3}}
    place.change({"base": base, "axes": {"projector.out_dim": [16, 64]}})
    again = {**base, "teacher": {"start_from": {"run": "same", "take": "student"}}}
    document = {"name": "other", "base": again, "axes": {"projector.out_dim": [64, 16, 32]}, "launch": {"retries": 1}}
    other.write_text(yaml.safe_dump(document))
    command = ["sweep", place.file, other, "--store", place.store.root, "--data-dir", data_dir]
    out, err = ended(start(*command, "--concurrency", 2))
    assert err == ""
    (start_from,) = {point.spec.starts[0].run.name for point in load_sweep(other)[1]} - {
        point.spec.name for point in place.points
    }
    lines = [line.split("  ")[0] for line in out.splitlines() if line.startswith("[")]
    assert {line.split("] ")[1] for line in lines} == {
        "small: out_dim=16,seed=0", "small: out_dim=64,seed=0", "other: out_dim=16,seed=0", "other: out_dim=64,seed=0",
        "other: out_dim=32,seed=0", f"{start_from} (needed first)",
    }  # fmt: skip
    assert lines[-1].startswith("[6/6]")
    assert all(run_dir.status().attempts == 1 for run_dir in place.store)
    assert len(place.store.sweep("other").runs()) == 3
    assert "2 of 2 runs finished" in out
    assert "3 of 3 runs finished" in out


def test_a_rule_ends_runs_early_and_a_search_samples_points(
    tmp_path: Path, data_dir: Path, start: Start, cli: Any
) -> None:
    place = Place(tmp_path, data_dir)
    base = {**SWEEP["base"], "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 16}}
    base["probe"] = {"every": "5ep", "epochs": 2, "standardized": False}
    metric = {"metric": "train/kl", "mode": "min"}
    asha = {**metric, "stop": {"asha": {"grace": "5ep", "reduction": 2}}}
    base["student"] = {"alpha": 1.0}
    place.change({"base": base, "axes": {"train.optimizer.lr": [0.05, 1e-7, 1e-8]}, "explore": asha})
    out, err = ended(start(*place.command, "--concurrency", 1))
    assert err == ""
    early = [line for line in out.splitlines() if "was ended early: asha after" in line]
    rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)["runs"]
    assert sorted({row["state"] for row in rows}) == ["done", "ended"]
    assert [row["state"] for row in rows] == ["done", "ended", "ended"]
    assert len(early) == 2
    assert all("asha after 5 epochs: train/kl was" in row["detail"] for row in rows[1:])
    times = place.times()
    assert cli(*place.command).code == 0  # Ray is not started
    assert place.times() == times

    search = {**metric, "search": {"optuna": {"runs": 4}}, "space": {"student.alpha": {"uniform": [0, 1]}}}
    place.change({"name": "search", "base": {**base, "train": {"epochs": 2}}, "axes": {}, "explore": search})
    out, err = ended(start(*place.command))
    assert err == ""
    rows = json.loads(cli("status", place.file, "--store", place.store.root, "--json").out)["runs"]
    assert [row["state"] for row in rows] == ["done"] * 4
    assert len({row["label"] for row in rows}) == 4
    assert "4 of 4 runs finished" in out
    assert [line[:5] for line in out.splitlines() if line.startswith("[")] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    times = place.times()
    assert cli(*place.command).code == 0  # Ray is not started
    assert place.times() == times
