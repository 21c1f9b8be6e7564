"""A run whose pass finds no memory: a failure like any other, in a real process under a real limit."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

Start = Callable[..., subprocess.Popen[str]]
LIMIT = 20 << 30
"""Bytes of addresses: more than libraries take, less than one tensor of logits would."""
SPEC: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [], "bottleneck": 2, "out_dim": 65536},
    # The student's logits are 65 x 1,024 x 65,536 numbers, 35 GB.
    "augment": {"kind": "multicrop", "global_views": 1, "local_views": 64, "global_size": 4, "local_size": 4},
    "objective": {"pairing": "all"},
    "train": {"epochs": 1, "batch_size": 1024},
    "precision": "float64",
    "probe": {"epochs": 1, "standardized": False, "knn": 0},
}


def test_no_memory_in_the_pass_is_recorded_with_its_reason(tmp_path: Path, data_dir: Path, start: Start) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(SPEC))
    process = start(
        "run", file, "--store", tmp_path / "store", "--data-dir", data_dir, "--threads", 1, "--device", "cpu",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
    )  # fmt: skip
    out, err = process.communicate(timeout=240)
    assert process.returncode == 1, (out, err)
    assert "Traceback" not in err
    assert "ran out of memory" in err
    run_dir = Store(tmp_path / "store").run(RunSpec.model_validate(SPEC))
    failure = run_dir.failure()
    assert failure is not None
    assert "Lower train.batch_size" in failure["reason"]
    assert (run_dir.status().state, run_dir.checkpoints.steps()) == ("failed", [0])
