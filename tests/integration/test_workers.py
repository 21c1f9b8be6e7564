"""`launch.workers` and `rt-scale run --workers` through a real local Ray Train."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

Start = Callable[..., subprocess.Popen[str]]
BASE: dict[str, Any] = {
    "data": {"name": "digits", "samples": 97},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 2, "batch_size": 32},
    "probe": {"knn": 5, "epochs": 2, "standardized": False},
    "precision": "float64",
}
TIMEOUT = 540


def test_a_run_with_two_workers_is_the_run_with_one(tmp_path: Path, data_dir: Path, start: Start) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(BASE))
    spec = RunSpec.model_validate(BASE)
    command = ["run", file, "--store", tmp_path / "two", "--data-dir", data_dir, "--workers", 2, "--threads", 1]
    # What the environment names is not asked where another Ray is.
    env = {**os.environ, "RAY_ADDRESS": "http://127.0.0.1:1"}
    process = start(*command, "--device", "cpu", "--json", "--address", "local", env=env)
    out, err = process.communicate(timeout=TIMEOUT)
    found = Store(tmp_path / "two").run(spec).result()
    assert found is not None, err
    assert json.loads(out) == found.to_json()
    alone = run(spec, Options(store=Store(tmp_path / "one"), data_dir=data_dir, device="cpu", threads=1))
    assert found.last == pytest.approx(alone.last, rel=1e-9, abs=1e-9)
    assert found.device_seconds == {"cpu": pytest.approx(2 * found.seconds, abs=0.002)}
