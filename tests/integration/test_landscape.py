"""A plane that is killed at any moment goes on, and ends bitwise as one that was left alone."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import resolve_same
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.dying import DIES

Start = Callable[..., subprocess.Popen[str]]
PLANE: dict[str, Any] = {
    "kind": "landscape",
    "origin": {
        "take": "teacher",
        "run": {
            "data": {"name": "digits", "samples": 200},
            "encoder": {"name": "convnet_8_2"},
            "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
            "train": {"epochs": 2},
            "probe": {"every": None, "epochs": 2, "knn": 5},
            "student": {"alpha": 0.5},  # at 0 a student moves by rounding alone: on some machines not at all
        },
    },
    "x": {"run": "same"},
    "y": {"run": {"same_but": {"student": {"alpha": 1}}}},
    "points": [9, 8],
}
MOMENTS = {
    "rt_scale.experiments.plane:PlaneRun:_measure:1:before": [],  # the corners are not measured
    "rt_scale.store.run_dir:RunDir:save_artifact:1:after": [],  # the artifact is newer than any checkpoint
    "rt_scale.store.run_dir:RunDir:save_checkpoint:1:after": [0],
    "rt_scale.experiments.plane:PlaneRun:_measure:4:before": [0, 8, 16, 24],
    "rt_scale.experiments.plane:PlaneRun:_put:1:before": [0, 16, 24],
    "rt_scale.store.run_dir:RunDir:complete:1:before": [0, 64, 72],
}


def outcome(run_dir: RunDir) -> tuple[bytes, Any, Any]:
    result = run_dir.result()
    assert result is not None
    with np.load(run_dir.artifacts / "plane.npz") as arrays:
        plane = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))
    metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
    return plane, metrics, result.model_dump(include={"last", "best", "steps"})


def test_killed_at_every_delicate_moment(tmp_path: Path, data_dir: Path, start: Start, cli: Any) -> None:
    spec, alone = RunSpec.model_validate(resolve_same(PLANE)), Store(tmp_path / "alone")
    run(spec, Options(store=alone, data_dir=data_dir, device="cpu", threads=1))
    file, store = tmp_path / "plane.yaml", Store(tmp_path / "store")
    file.write_text(yaml.safe_dump(PLANE))
    for network in all_runs([spec])[:-1]:
        run(network, Options(store=store, data_dir=data_dir, device="cpu", threads=1))
    arguments = ["run", file, "--store", tmp_path / "store", "--data-dir", data_dir, "--threads", 1, "--device", "cpu"]
    command, run_dir = [str(each) for each in arguments], store.run(spec)
    for attempt, (moment, checkpoints) in enumerate(MOMENTS.items(), start=1):
        process = start(moment, *command, program=DIES)
        out, err = process.communicate(timeout=480)
        assert process.returncode == -signal.SIGKILL, (moment, out, err)
        status = run_dir.status()
        assert (status.state, status.attempts) == ("partial", attempt)
        kept = run_dir.checkpoints.steps()
        assert kept[:1] + kept[-2:] == checkpoints[:1] + checkpoints[-2:], moment
    ended = cli(*command)
    assert ended.code == 0, ended
    assert outcome(run_dir) == outcome(alone.run(spec))
