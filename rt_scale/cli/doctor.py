"""What this machine can do, what is missing, and how to install it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from rt_scale.data.prepare import list_prepared
from rt_scale.experiments.options import free_memory
from rt_scale.spec.errors import InputError, counted
from rt_scale.store.objects.uri import is_address
from rt_scale.store.store import Store
from rt_scale.system.machine import allowed_cores, mig_devices
from rt_scale.system.paths import install_command

State = Literal["ok", "missing", "note"]
LEAST_FREE = 5 * 2**30
PACKAGES = ("torch", "torchvision", "ray", "tensorboard", "pydantic", "pyarrow", "safetensors", "matplotlib")


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``remedy``: the command or step that solves the problem."""

    what: str
    state: State
    detail: str
    remedy: str = ""


def examine(store: Store, data_dir: Path) -> list[Finding]:
    """Check versions, devices, FFCV, Ray, disk and data; neither folder need exist."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *(_package(name) for name in PACKAGES),
        *_devices(),
        _ffcv(),
        _ray(),
        _store(store),
        _folder("prepared data", data_dir, "--data-dir or RT_SCALE_DATA"),
        _data(data_dir),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", install_command(name))


def _devices() -> list[Finding]:
    memory = free_memory(torch.device("cpu")) / 2**30
    findings = [Finding("cpu", "ok", f"{allowed_cores()} cores for this process, {memory:.1f} GiB free")]
    if not torch.cuda.is_available():
        remedy = "nvidia-smi shows whether the driver is there" if shutil.which("nvidia-smi") else ""
        return [*findings, Finding("gpu", "note", "none that torch can use; runs go to the CPU", remedy)]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        detail = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        findings.append(Finding(f"gpu {index}", "ok", detail))
    if mig := mig_devices():
        findings.append(Finding("mig", "ok", f"{counted(len(mig), 'MIG device')} for runs, of which each sees its own"))
    return findings


def _ffcv() -> Finding:
    """Whether FFCV's compiled part loads: it links against the system's OpenCV and libjpeg-turbo."""
    try:
        version = importlib.metadata.version("ffcv")
    except importlib.metadata.PackageNotFoundError:
        return Finding("ffcv", "missing", "not installed (optional)", install_command("rt-scale[ffcv]"))
    found = _python("import ffcv._libffcv" if sys.platform == "linux" else "import ffcv")
    if found.returncode == 0:
        return Finding("ffcv", "ok", version)
    reason = (found.stderr.strip().splitlines() or ["unknown"])[-1]
    packages = "libopencv-core406 libopencv-imgproc406 libturbojpeg0 libtbb12"
    return Finding("ffcv", "missing", f"{version} does not load: {reason}", f"apt-get install {packages}")


def _ray() -> Finding:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return Finding("ray shared memory", "note", "no /dev/shm: Ray keeps objects on disk, slowly")
    free = shutil.disk_usage(shared).free
    if free < 2**28:
        remedy = "mount -o remount,size=2G /dev/shm (in a container: --shm-size=2g)"
        return Finding("ray shared memory", "missing", f"{free / 2**20:.0f} MiB free in /dev/shm", remedy)
    return Finding("ray shared memory", "ok", f"{free / 2**30:.1f} GiB free in /dev/shm")


def _store(store: Store) -> Finding:
    if not is_address(store.place):
        return _folder("store", store.root, "--store or RT_SCALE_STORE")
    mirror = _folder("store", store.root, "RT_SCALE_MIRROR")
    return replace(mirror, detail=f"{store.place}, mirrored in {mirror.detail}")


def _folder(what: str, path: Path, option: str) -> Finding:
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding(what, "missing", f"{path}: {existing} cannot be written", f"choose another with {option}")
    free = shutil.disk_usage(existing).free
    detail = f"{path}, {free / 2**30:.0f} GiB free"
    if free < LEAST_FREE:
        return Finding(what, "note", detail, "little space: free some, or choose another folder")
    return Finding(what, "ok", detail)


def _data(data_dir: Path) -> Finding:
    prepared = list_prepared(data_dir)
    damaged = {name: found for name, found in prepared.items() if isinstance(found, InputError)}
    if damaged:
        return Finding("data sets", "missing", " ".join(map(str, damaged.values())))
    if prepared:
        return Finding("data sets", "ok", ", ".join(prepared))
    return Finding("data sets", "note", "none prepared yet (digits comes along)", "rt-scale data prepare NAME")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=120, check=False
    )
