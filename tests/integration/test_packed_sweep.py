"""A sweep through a real local Ray whose runs train as one batched network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store

SWEEP: dict[str, Any] = {
    "name": "packed",
    "base": {
        "data": {"name": "digits", "samples": 100},
        "encoder": {"name": "convnet_4_2", "norm": "batch"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 16},
        "train": {"epochs": 2, "batch_size": 40, "optimizer": {"name": "sgd", "lr": 0.1}},
        "probe": {"every": "1ep", "epochs": 2, "standardized": False},
        "precision": "float64",
    },
    "axes": {"student.alpha": [0.5, 1.0], "train.optimizer.lr": [0.1, 1e200]},
    "launch": {"pack": "auto"},
}
"""Four runs of one shape, two of which diverge."""


def test_packed_runs_leave_what_runs_alone_leave(tmp_path: Path, data_dir: Path, cli: Any) -> None:
    file = tmp_path / "packed.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    store, alone = Store(tmp_path / "store"), Store(tmp_path / "alone")
    command = ["sweep", file, "--store", store.root, "--data-dir", data_dir, "--address", "local"]
    done = cli(*command, "--pack", "4", "--concurrency", "4")
    assert done.code == 1, done
    assert "2 of 4 runs finished" in done.out
    for point in load_sweep(file)[1]:
        run_dir = store.run(point.spec)
        environment = run_dir.record()
        assert environment is not None
        (attempt,) = environment.attempts
        assert attempt.packing.reason == "launch.pack is 4"
        assert 1 < environment.execution.pack <= 4
        if "1e+200" in point.label:
            assert run_dir.status().state == "failed"
            assert f"{point.label} has no result: The loss is" in done.err
            continue
        settings = Options(store=alone, data_dir=data_dir, device="cpu", threads=1)
        result = run_dir.result()
        assert result is not None
        assert result.last == pytest.approx(run(point.spec, settings).last, rel=1e-9, abs=1e-9)
