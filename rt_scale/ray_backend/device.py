"""Whether the GPUs that Ray gave this process work, after CUDA raised an error, and what becomes of one that does not.

The process of a run whose GPU is gone keeps that GPU until the sweep ends, so that no other run gets it.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import ray

from rt_scale.spec.errors import DeviceLost

DRIVER = Path("/proc/driver/nvidia/version")
SECONDS = 60.0
"""Time for a GPU to compute a sum, in a new process."""
TRY = """
import torch
for index in range(torch.cuda.device_count()):
    assert torch.ones(1 << 20, device=f"cuda:{index}").sum().item() == 1 << 20
assert torch.cuda.is_available()
"""


@functools.cache
def works() -> bool:
    """Whether a new process can compute on every GPU of this one: an error that only this process has is its own."""
    try:
        return subprocess.run([sys.executable, "-c", TRY], capture_output=True, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def require_gpus(device: str) -> None:
    """Do not compute on the CPU in place of a GPU that Ray gave this process and that is gone (DeviceLost).

    Where there is no driver, GPUs are pretended, for tests.
    """
    if ray.get_gpu_ids() and device != "cpu" and DRIVER.exists():
        import torch

        if not torch.cuda.is_available():
            raise DeviceLost("torch finds no CUDA device, though Ray gave this process one")


def keep() -> NoReturn:
    """Keep the GPU until this process is ended."""
    while True:
        time.sleep(3600)
