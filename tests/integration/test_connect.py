"""Lines between classifiers that are killed at any moment go on, and end bitwise as if left alone."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.dying import DIES

Start = Callable[..., subprocess.Popen[str]]
END: dict[str, Any] = {
    "kind": "supervise",
    "data": {"name": "digits", "samples": 300},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10},
    "student": {"alpha": 1.0},
    "train": {"epochs": 2, "batch_size": 64, "optimizer": {"name": "sgd", "lr": 0.1}},
    "probe": {"every": None, "knn": 0, "epochs": 1, "standardized": False},
}
SPEC: dict[str, Any] = {
    "kind": "connect",
    "ends": {"run": END, "vary": "seeds.order", "values": [1, 2, 3]},
    "points": 12,
}
STEPS = 3 + 3 * 10

# Moment of death -> checkpoints that are there afterwards; one is written after each line.
MOMENTS = {
    "rt_scale.analyses.classifier:Classifiers:measure:2:before": [],
    "rt_scale.analyses.classifier:Classifiers:measure:12:after": [],
    "rt_scale.experiments.connect::_write_state:1:after": [],  # the checkpoint is half there
    "rt_scale.store.run_dir:RunDir:save_checkpoint:1:after": [13],
    "rt_scale.analyses.classifier:Classifiers:measure:6:before": [13],  # in the second line
    "rt_scale.store.run_dir:RunDir:save_artifact:2:after": [13],  # some tables are newer than the checkpoint
    "rt_scale.store.run_dir:RunDir:complete:1:before": [23, 33],  # all is done but the result
}


def everything(run_dir: RunDir) -> tuple[Any, ...]:
    """What must not depend on what happened on the way."""
    result = run_dir.result()
    assert result is not None
    files = {path.name: path.read_bytes() for path in run_dir.artifacts.iterdir()}
    assert set(files) == {"curves.parquet", "pairs.parquet", "ends.parquet"}
    kept = result.model_dump(include={"last", "best", "steps", "epochs", "data"})
    return files, read_metrics(run_dir.metrics_path).drop_columns("time"), kept


def test_killed_at_every_delicate_moment(tmp_path: Path, data_dir: Path, start: Start, cli: Any) -> None:
    spec, alone = RunSpec.model_validate(SPEC), Store(tmp_path / "alone")
    run(spec, Options(store=alone, data_dir=data_dir, device="cpu", threads=1))
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    arguments = ["run", tmp_path / "spec.yaml", "--store", tmp_path / "store", "--data-dir", data_dir]
    command = [*map(str, arguments), "--threads", "1", "--device", "cpu"]
    run_dir = Store(tmp_path / "store").run(spec)
    for attempt, (moment, checkpoints) in enumerate(MOMENTS.items(), start=1):
        process = start(moment, *command, program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        status = run_dir.status()
        assert (status.state, status.attempts) == ("partial", attempt)
        assert run_dir.checkpoints.steps() == checkpoints, moment
    ended = cli(*command)
    assert ended.code == 0, ended
    assert f"resuming at step {STEPS} of {STEPS}" in ended.out
    assert everything(run_dir) == everything(alone.run(spec))
