"""A run that is killed at any moment goes on, and ends bitwise as one that was left alone."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.conftest import PROGRAM, handle_signals
from tests.integration.dying import DIES, Outcome, outcome

Start = Callable[..., subprocess.Popen[str]]
SPEC: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "train": {"epochs": 30, "batch_size": 128},
    "probe": {"every": "3ep", "epochs": 2, "standardized": False},
}
STEPS = 30 * 12
SAVED = range(0, STEPS + 1, 3 * 12)
"""About two seconds, with a checkpoint every 3 epochs."""

# Moment of death -> checkpoints that are there afterwards.
MOMENTS = {
    "rt_scale.probes.evaluator:Prober:embed_network:1:before": [],  # during the first probes
    "rt_scale.experiments.train::save_weights:1:before": [],  # the first checkpoint is half there
    "rt_scale.store.run_dir:RunDir:save_checkpoint:1:after": [0],
    "rt_scale.experiments.train:TrainingRun:after_step:40:before": [0, 36],  # in the middle of an epoch
    "rt_scale.store.metrics:MetricsTable:flush:2:after": [0, 36, 72],  # its metrics are saved, the checkpoint not
    "rt_scale.store.run_dir:RunDir:save_checkpoint:1:after ": [0, 36, 72, 108],  # the old ones are still there
    "rt_scale.store.run_dir:RunDir:complete:1:before": [0, 324, 360],  # all is done but the result
}


DINO: dict[str, Any] = {
    "data": {"name": "digits", "samples": 256},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "teacher": {
        "update": "ema", "momentum": "cosine(0.9, 1)", "mode": "train", "statistics": "data",
        "center": 0.9, "temperature": "linear(0.04, 0.07, 50%) + constant(0.07)",
    },
    "student": {"alpha": 1.0, "temperature": 0.1, "center": 0.5},
    "augment": {"kind": "multicrop", "local_views": 3, "global_size": 8, "local_size": 4},
    "objective": {"pairing": "opposite"},
    "train": {"epochs": 6, "batch_size": 64, "optimizer": {"lr": "cosine(0.01, 0)", "clip": 3}, "freeze_last": "1ep"},
    "probe": {"every": "2ep", "epochs": 2, "standardized": False, "statistics": True},
}  # fmt: skip
"""4 steps an epoch, a checkpoint every 2 epochs; everything moves."""
BEHIND = {
    **DINO,
    "teacher": {"update": "previous_epoch", "statistics": "student"},
    "augment": {"kind": "crop_flip", "padding": 2},
    "objective": {"name": "mse"},
}
MOVING_MOMENTS = {
    "rt_scale.experiments.train::save_weights:1:before": [],
    "rt_scale.experiments.train::save_training:2:after": [0],  # the student of step 8 is there, the teacher not
    "rt_scale.store.metrics:MetricsTable:flush:1:after": [0],
    "rt_scale.training.teacher:Following:after_step:11:after": [0, 8],  # moved, and nothing of it is saved
    "rt_scale.training.teacher:Following:after_epoch:2:after": [0, 8],
    "rt_scale.store.run_dir:RunDir:save_checkpoint:1:after": [0, 8, 16],
}


def command_for(document: dict[str, Any], folder: Path, data_dir: Path) -> list[str]:
    """The one command that a user repeats."""
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    arguments = ["run", path, "--store", folder / "store", "--data-dir", data_dir]
    return [*map(str, arguments), "--threads", "1", "--device", "cpu"]


@pytest.fixture
def command(tmp_path: Path, data_dir: Path) -> list[str]:
    return command_for(SPEC, tmp_path, data_dir)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return Store(tmp_path / "store").run(RunSpec.model_validate(SPEC))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Outcome:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    spec = RunSpec.model_validate(SPEC)
    run(spec, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    return outcome(store.run(spec))


def finish(ended: Any, run_dir: RunDir, undisturbed: Any) -> str:
    """The output of the command that ended the run, after a look at what came out."""
    assert ended.code == 0, ended
    assert outcome(run_dir) == undisturbed
    out: str = ended.out
    return out


def test_killed_at_every_delicate_moment(
    command: list[str], run_dir: RunDir, start: Start, undisturbed: Any, cli: Any
) -> None:
    for attempt, (moment, checkpoints) in enumerate(MOMENTS.items(), start=1):
        process = start(moment.strip(), *command, program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        status = run_dir.status()
        assert (status.state, status.attempts) == ("partial", attempt)
        assert run_dir.checkpoints.steps() == checkpoints, moment
    out = finish(cli(*command), run_dir, undisturbed)
    assert f"resuming at step {STEPS:,} of {STEPS:,}" in out
    assert not list(run_dir.path.rglob(".tmp-*"))


@pytest.mark.parametrize(("document", "moments"), [(DINO, 6), (BEHIND, 3)], ids=["dino", "previous epoch"])
def test_a_teacher_that_moves(
    tmp_path: Path, data_dir: Path, start: Start, cli: Any, document: dict[str, Any], moments: int
) -> None:
    spec, alone = RunSpec.model_validate(document), Store(tmp_path / "alone")
    run(spec, Options(store=alone, data_dir=data_dir, device="cpu", threads=1))
    command, run_dir = command_for(document, tmp_path, data_dir), Store(tmp_path / "store").run(spec)
    for moment, checkpoints in list(MOVING_MOMENTS.items())[-moments:]:
        process = start(moment, *command, program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        assert run_dir.checkpoints.steps() == checkpoints, moment
    undisturbed = outcome(alone.run(spec))
    assert undisturbed[0].keys() == {"student.safetensors", "teacher.safetensors"}
    assert "resuming at step 16 of 24" in finish(cli(*command), run_dir, undisturbed)


def test_killed_again_and_again_at_any_moment(
    command: list[str], run_dir: RunDir, start: Start, undisturbed: Any, wait_for: Any, cli: Any
) -> None:
    delays = random.Random(0)
    for attempt in (1, 2, 3):
        process = start(*command)
        lease = run_dir.path / "lease" / f"{attempt}.json"
        wait_for(lambda process=process, lease=lease: lease.exists() or process.poll() is not None, process)
        time.sleep(delays.uniform(0, 0.8))
        process.kill()
        process.wait()
    finish(cli(*command), run_dir, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_asked_to_stop(
    command: list[str],
    run_dir: RunDir,
    start: Start,
    undisturbed: Any,
    wait_for: Any,
    cli: Any,
    number: int,
    read: bool,
) -> None:
    process = start(*command)
    wait_for((run_dir.path / "checkpoints" / "36").exists, process)
    if not read:  # as where Ctrl-C ends `| tee log` first
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
    process.send_signal(number)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, (out, err)
    assert err == "rt-scale: interrupted; the same command resumes from the last checkpoints.\n"
    assert not read or "stopping: a checkpoint is written first" in out
    assert run_dir.status().state == "partial"
    stopped_at = run_dir.checkpoints.steps()[-1]
    assert run_dir.failure() is None
    assert "1 partial" in cli("status", "--store", run_dir.path.parents[1]).out
    assert f"resuming at step {stopped_at:,} of" in finish(cli(*command), run_dir, undisturbed)


def test_a_terminal_that_closes(
    command: list[str], run_dir: RunDir, start: Start, undisturbed: Any, wait_for: Any, cli: Any
) -> None:
    """What is printed after that cannot be written either."""
    ours, theirs = pty.openpty()

    def in_terminal() -> None:
        handle_signals()
        fcntl.ioctl(theirs, termios.TIOCSCTTY)

    process = start(*command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=in_terminal)
    os.close(theirs)
    wait_for((run_dir.path / "checkpoints" / "36").exists, process)
    os.close(ours)
    assert process.wait(240) == 130
    assert (run_dir.status().state, run_dir.failure()) == ("partial", None)
    stopped_at = run_dir.checkpoints.steps()[-1]
    assert f"resuming at step {stopped_at:,} of" in finish(cli(*command), run_dir, undisturbed)


def test_a_run_that_is_to_outlive_its_terminal_does(
    command: list[str], run_dir: RunDir, start: Start, undisturbed: Any, wait_for: Any
) -> None:
    process = start(*command, program=["nohup", PROGRAM])
    wait_for((run_dir.path / "checkpoints" / "0").exists, process)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=480)
    assert process.returncode == 0, (out, err)
    assert outcome(run_dir) == undisturbed
    assert run_dir.status().attempts == 1


def test_asked_to_stop_while_it_probes(tmp_path: Path, data_dir: Path, start: Start, wait_for: Any) -> None:
    """A linear probe of so many epochs would not be through within this test's patience."""
    document = {**SPEC, "probe": {"epochs": 1_000_000}}
    process = start(*command_for(document, tmp_path, data_dir))
    run_dir = Store(tmp_path / "store").run(RunSpec.model_validate(document))
    wait_for((run_dir.path / "events.out.tfevents.1-start").exists, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, (out, err)
    assert (run_dir.status().state, run_dir.failure(), run_dir.checkpoints.steps()) == ("partial", None, [])


@pytest.mark.parametrize("document", [SPEC, DINO, BEHIND], ids=["plain", "dino", "previous epoch"])
@pytest.mark.parametrize("step", [1, 14, 16])
def test_asked_to_stop_within_an_epoch(tmp_path: Path, data_dir: Path, document: dict[str, Any], step: int) -> None:
    spec = RunSpec.model_validate({**document, "train": {**document["train"], "epochs": 6}})
    steps: list[int] = []

    class Counts(Silent):
        def stepped(self, step: int) -> None:
            steps.append(step)

    def settings(name: str, stop: Callable[[], bool] = lambda: False) -> Options:
        return Options(
            store=Store(tmp_path / name), data_dir=data_dir, device="cpu", threads=1, observer=Counts(), stop=stop
        )  # fmt: skip

    run(spec, settings("alone"))
    count = len(steps)
    with pytest.raises(Stopped):
        run(spec, settings("stopped", lambda: len(steps) == count + step))
    run_dir = Store(tmp_path / "stopped").run(spec)
    assert run_dir.checkpoints.steps() == [*({0, 8} if step > 8 and document != SPEC else {0}), step]
    assert (run_dir.status().state, run_dir.failure()) == ("partial", None)
    run(spec, settings("stopped"))
    assert steps == [*range(1, count + 1)] * 2
    assert outcome(run_dir) == outcome(Store(tmp_path / "alone").run(spec))


class StopsAt(Silent):
    """Ends the process's attempt as Ctrl-C would, at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            raise KeyboardInterrupt


def cut(folder: Path) -> None:
    os.truncate(folder / "student.safetensors", (folder / "student.safetensors").stat().st_size // 2)


def flip(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


def empty(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"")


def lose(folder: Path) -> None:
    (folder / "metrics.parquet").unlink()


@pytest.mark.parametrize("damage", [cut, flip, empty, lose])
def test_a_damaged_newest_checkpoint(
    command: list[str], run_dir: RunDir, undisturbed: Any, cli: Any, data_dir: Path, damage: Callable[[Path], None]
) -> None:
    store = Store(run_dir.path.parents[1])
    settings = Options(store=store, data_dir=data_dir, device="cpu", threads=1, observer=StopsAt(SAVED[5] + 5))
    with pytest.raises(KeyboardInterrupt):
        run(RunSpec.model_validate(SPEC), settings)
    newest = run_dir.path / "checkpoints" / str(SAVED[5])
    damage(newest)
    out = finish(cli(*command), run_dir, undisturbed)
    (warning,) = (line for line in out.splitlines() if "warning" in line)
    assert f"Checkpoint '{newest}' is damaged" in warning
    assert f"moved to 'damaged-{SAVED[5]}'. Trying the one before, step {SAVED[4]}." in warning
    assert f"resuming at step {SAVED[4]:,} of {STEPS:,}" in out
    assert newest.with_name(f"damaged-{SAVED[5]}").is_dir()


def test_a_second_process_is_refused_and_the_first_unharmed(
    command: list[str], run_dir: RunDir, start: Start, undisturbed: Any, wait_for: Any, cli: Any
) -> None:
    process = start(*command)
    wait_for((run_dir.path / "spec.json").exists, process)
    process.send_signal(signal.SIGSTOP)  # so that it is still there, however slow this machine is
    message = cli(*command).refusal()
    assert f"'{run_dir.path}' is in use: process {process.pid} on host" in message
    assert "1 running" in cli("status", "--store", run_dir.path.parents[1]).out
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=480)
    assert process.returncode == 0, (out, err)
    assert outcome(run_dir) == undisturbed
    assert run_dir.status().attempts == 1
