"""A command line that dies at a chosen moment, and what must not depend on it."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa

from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir

# Runs the command line, and dies when the named function is called for the n-th time: before it or after it.
_DIES = """
import importlib, os, signal, sys
module, owner, name, count, when = sys.argv[1].split(":")
owner = getattr(importlib.import_module(module), owner) if owner else importlib.import_module(module)
original, calls = getattr(owner, name), [0]
def wrapped(*args, **kwargs):
    calls[0] += 1
    if calls[0] == int(count) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    value = original(*args, **kwargs)
    if calls[0] == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return value
setattr(owner, name, wrapped)
sys.argv[:] = ["rt-scale", *sys.argv[2:]]
from rt_scale.cli import main
main()
"""
DIES = [sys.executable, "-c", _DIES]
"""A program; its first argument is the moment, ``module:class:function:count:before`` or ``:after``."""
DIES_SENDING = [sys.executable, "-c", f"from rt_scale.store.objects import mirror\nmirror.UPLOAD_S = 0.2\n{_DIES}"]
"""The same, which uploads to an object store more often, so that short runs do, too."""

Outcome = tuple[dict[str, bytes], pa.Table, dict[str, Any]]


def outcome(run_dir: RunDir) -> Outcome:
    """What must not depend on what happened on the way: weights, metrics and the result."""
    result = run_dir.result()
    assert result is not None
    folder = run_dir.path / "checkpoints" / str(result.steps)
    weights = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert "student.safetensors" in weights
    metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
    return weights, metrics, result.model_dump(include={"last", "best", "steps", "epochs", "data"})
