"""Runs that start from other runs, through the command line: killed, shared, waited for, and failing."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import resolve_same, set_dotted
from rt_scale.spec.run import RunSpec
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.dying import DIES, Outcome, outcome

Start = Callable[..., subprocess.Popen[str]]
RESTART: dict[str, Any] = {
    "data": {"name": "digits", "samples": 256},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "teacher": {"start_from": {"run": {"same_but": {"student": {"alpha": 1.0}}}}},
    "student": {"alpha": 0.0},
    "train": {"epochs": 4, "batch_size": 64},
    "probe": {"every": "2ep", "epochs": 2, "standardized": False},
}
"""Two runs of 16 steps, with a checkpoint at steps 0, 8 and 16."""
SPEC = RunSpec.model_validate(resolve_same(RESTART))
FIRST = SPEC.starts[0].run


class Place:
    """A store, and the command that a user repeats."""

    def __init__(self, folder: Path, data_dir: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.where = ["--store", str(self.store.root), "--data-dir", str(data_dir), "--device", "cpu"]
        self.first, self.second = self.store.run(FIRST), self.store.run(SPEC)

    def command(self, document: dict[str, Any] = RESTART, name: str = "spec") -> list[str]:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return ["run", str(path), *self.where, "--threads", "1"]


@pytest.fixture
def place(tmp_path: Path, data_dir: Path) -> Place:
    return Place(tmp_path, data_dir)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Outcome, Outcome]:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    run(SPEC, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    return outcome(store.run(FIRST)), outcome(store.run(SPEC))


def states(*run_dirs: RunDir) -> list[tuple[str, int]]:
    return [(status.state, status.attempts) for status in (run_dir.status() for run_dir in run_dirs)]


# Moment of death -> (state, attempts) of the first run and of the second afterwards.
MOMENTS = {
    "rt_scale.experiments.train:TrainingRun:after_step:6:before": [("partial", 1), ("partial", 1)],
    "rt_scale.store.run_dir:RunDir:complete:1:before": [("partial", 2), ("partial", 2)],
    "rt_scale.experiments.runner::compute_first:1:after": [("done", 3), ("partial", 3)],  # between the two
    "rt_scale.experiments.dependencies::start_weights:1:after": [("done", 3), ("partial", 4)],
    "rt_scale.experiments.train:TrainingRun:after_step:12:before": [("done", 3), ("partial", 5)],
}


def test_killed_in_the_first_run_between_and_in_the_second(
    place: Place, start: Start, undisturbed: tuple[Outcome, Outcome], cli: Any
) -> None:
    for moment, expected in MOMENTS.items():
        process = start(moment, *place.command(), program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        assert states(place.first, place.second) == expected, moment
    before = (place.first.path / "result.json").stat().st_mtime_ns
    ended = cli(*place.command())
    assert ended.code == 0, ended
    assert "resuming at step 8 of 16" in ended.out
    assert (outcome(place.first), outcome(place.second)) == undisturbed
    assert (place.first.path / "result.json").stat().st_mtime_ns == before
    assert states(place.first, place.second) == [("done", 3), ("done", 6)]


def test_a_second_process_waits_for_the_run_that_both_need(
    place: Place, start: Start, undisturbed: tuple[Outcome, Outcome], wait_for: Any
) -> None:
    computing = start(*place.command())
    wait_for((place.first.path / "spec.json").exists, computing)
    computing.send_signal(signal.SIGSTOP)  # so that it is not done before the other begins
    other = set_dotted(RESTART, "student.alpha", 0.5)
    stages = start("rt_scale.experiments.dependencies:time:sleep:2:after", *place.command(other, "other"), program=DIES)
    out, err = stages.communicate(timeout=480)
    assert stages.returncode == -signal.SIGKILL, (out, err)  # it waited twice
    waiting = start(*place.command(other, "other"))
    computing.send_signal(signal.SIGCONT)
    for process in (computing, waiting):
        out, err = process.communicate(timeout=480)
        assert process.returncode == 0, (out, err)
    assert (outcome(place.first), outcome(place.second)) == undisturbed
    others = place.store.run(RunSpec.model_validate(resolve_same(other)))
    assert states(place.first, place.second, others) == [("done", 1), ("done", 1), ("done", 2)]


def test_a_run_that_fails_takes_those_that_need_it_along(place: Place, cli: Any) -> None:
    diverging = {"train": {"optimizer": {"name": "sgd", "lr": 1e30}}}
    document = set_dotted(RESTART, "teacher.start_from.run", {"same_but": diverging})
    spec = RunSpec.model_validate(resolve_same(document))
    message = cli(*place.command(document)).refusal(code=1)
    assert message.startswith(f"The run {spec.starts[0].run.name}, which this run needs, has no result: ")
    assert "training diverged. Lower train.optimizer.lr" in message
    assert states(place.store.run(spec.starts[0].run), place.store.run(spec)) == [("failed", 1), ("failed", 1)]


def test_a_checkpoint_that_is_gone(place: Place, cli: Any) -> None:
    first = {key: value for key, value in RESTART.items() if key != "teacher"} | {"student": {"alpha": 1.0}}
    assert cli(*place.command(first, "first")).code == 0
    (place.first.path / "checkpoints" / "16").rename(place.first.path / "lost")
    message = cli(*place.command()).refusal(code=1)
    assert f"takes the student of run {FIRST.name}, but its checkpoint" in message
    assert f"'{place.first.path / 'checkpoints' / '16'}' cannot be used: manifest.json is missing." in message
    assert f"Move the folder '{place.first.path}' away" in message
