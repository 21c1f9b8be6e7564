"""What a run was computed with: versions, device, and the state of the code."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from rt_scale.experiments.settings import Execution

VERSIONS = ("rt-scale", "torch", "torchvision", "numpy", "ray", "pydantic")
_SOURCE = Path(__file__).parent


def attempt_record(execution: Execution) -> dict[str, Any]:
    """One entry of ``environment.json``'s attempts, in plain values."""
    device = execution.device
    commit, dirty = git_state(_SOURCE)
    return {
        "time": time.time(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
        "git_commit": commit,
        "git_dirty": dirty,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "threads": execution.threads,
        "workers": execution.workers,
    }


@functools.cache
def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit that the code in ``folder`` is at, and whether files that git follows were changed since.

    None for both where it is no checkout, or git is not there.
    """
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit.strip(), bool(changes.strip())


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
