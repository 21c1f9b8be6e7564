"""Processes that connect to Ray as a driver does, in an environment of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

Start = Callable[..., subprocess.Popen[str]]
RAY = str(Path(sys.executable).with_name("ray"))
CONNECT = """
import sys
from rt_scale.ray_backend.cluster import connect, ray
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
try:
    with connect({address!r}) as cluster:
        {inside}
except InputError as error:
    print("refused:", error, "| left:", not ray.is_initialized())
"""


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}


def connecting(address: str | None, env: dict[str, str], inside: str = "print(cluster.describe())") -> str:
    """What a process prints that connects."""
    code = CONNECT.format(address=address, inside=inside)
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=480)
    assert ended.returncode == 0, ended
    return ended.stdout.strip()


def told(process: subprocess.Popen[str], what: str) -> str:
    """What follows ``what`` on the next line of the process that has it; a process that never says it is killed."""
    assert process.stdout is not None
    hangs = threading.Timer(480, process.kill)
    hangs.start()
    try:
        for line in process.stdout:
            if what in line:
                return line.partition(what)[2].strip()
    finally:
        hangs.cancel()
    raise AssertionError(f"never said {what!r}")


def name_of(pid: int) -> str:
    """What the process calls itself, 15 characters of it; empty where it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
