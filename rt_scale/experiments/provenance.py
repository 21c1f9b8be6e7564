"""The record of an attempt: versions, device, and the state of the code."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path

import torch

from rt_scale.store.results import AttemptRecord, BatchSize, Cpu, Execution, Gpu
from rt_scale.system.machine import allowed_cores

VERSIONS = (
    *("rt-scale", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "ray", "pydantic"),
    *("pyarrow", "pillow", "safetensors", "tensorboard", "ffcv", "optuna", "timm"),
)
"""Packages whose versions are recorded: those that compute numbers, and those that write them."""
CPUINFO = Path("/proc/cpuinfo")
_SOURCE = Path(__file__).parent


def attempt_record(execution: Execution, packing: BatchSize) -> AttemptRecord:
    """The record of an attempt that begins now."""
    device = torch.device(execution.device)
    commit, dirty = git_state(_SOURCE)
    return AttemptRecord(
        time=time.time(),
        host=platform.node(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions={name: version_of(name) for name in VERSIONS},
        git_commit=commit,
        git_dirty=dirty,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        gpu=_gpu(device) if device.type == "cuda" else None,
        cpu=Cpu(model=cpu_model(), cores=allowed_cores()),
        threads=execution.threads,
        workers=execution.workers,
        packing=packing,
    )


def _gpu(device: torch.device) -> Gpu:
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        memory=properties.total_memory,
        capability=f"{properties.major}.{properties.minor}",
        driver=gpu_driver(),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    )


@functools.cache
def gpu_driver() -> str | None:
    """Version of NVIDIA's driver; None without a driver or ``nvidia-smi``."""
    output = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return output.splitlines()[0].strip() if output else None


@functools.cache
def cpu_model() -> str | None:
    """Name of the processor, or None if it is unknown."""
    with contextlib.suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


@functools.cache
def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit of the code in ``folder``, and whether tracked files have changed since.

    None for both without git, or where git does not track that code, e.g. installed code.
    """
    # Code installed inside a user's project lies in a checkout that does not track it.
    if not _output("git", "-C", str(folder), "ls-files", "--", "."):
        return None, None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return (None, None) if commit is None or changes is None else (commit.strip(), bool(changes.strip()))


def _output(*command: str) -> str | None:
    """Standard output of a program; None if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def version_of(package: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
