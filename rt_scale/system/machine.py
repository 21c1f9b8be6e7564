"""The cores, memory and MIG devices that this process may use, within its control groups' and its Slurm job's limits.

Kernel documentation: admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/{cpuacct,memory}.rst.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def allowed_cores() -> int:
    """CPU cores that this process may use: its affinity, its CPU quota (rounded up) or its Slurm job's, the lowest."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (_quota(group) for group in _groups("cpu"))
    return min([affinity, *(max(1, math.ceil(quota)) for quota in quotas if quota is not None), *_slurm_cores()])


def _slurm_cores() -> Iterator[int]:
    """CPUs that Slurm gave: to the job or step on this node, and to each task of a step (sbatch's shell is no step).

    Slurm binds processes to them only where the site uses its affinity or cgroup plugin.
    """
    for variable in ("SLURM_CPUS_ON_NODE", *(["SLURM_CPUS_PER_TASK"] if "SLURM_STEP_ID" in os.environ else [])):
        with contextlib.suppress(KeyError, ValueError):
            yield max(1, int(os.environ[variable]))


def mig_devices() -> list[str]:
    """Names of the MIG devices (parts of an NVIDIA GPU) in this process's CUDA_VISIBLE_DEVICES."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [name.strip() for name in names if name.strip().startswith("MIG-")]


def free_host_memory() -> int:
    """Bytes of memory that this process can still allocate, page cache included."""
    limits = (_below_limit(group) for group in _groups("memory"))
    return min([_available(), *(max(0, free) for free in limits if free is not None)])


def _available() -> int:
    # Includes the page cache, which a data set that was just prepared fills.
    for line in (_read(MEMINFO) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups of ``controller``, the innermost first."""
    for line in (_read(MEMBERSHIP) or "").splitlines():
        _, controllers, inside = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = CGROUPS / controller if controllers else CGROUPS
        if not controllers and (CGROUPS / "unified").is_dir():  # both versions side by side
            base = CGROUPS / "unified"
        group = base / inside.strip("/")
        # In a container the machine's path may be hidden; then the base is the innermost group.
        while ".." not in group.parts and group != base:
            yield group
            group = group.parent
        yield base


def _quota(group: Path) -> float | None:
    """The CPU limit of ``group`` in cores; None if it has none."""
    both = (_read(group / "cpu.max") or "").split()
    if not both:
        both = [_read(group / f"cpu.cfs_{name}_us") or "-1" for name in ("quota", "period")]
    quota, period = both
    return None if quota == "max" or int(quota) <= 0 or int(period) <= 0 else int(quota) / int(period)


def _below_limit(group: Path) -> int | None:
    """Bytes between the usage of ``group`` and its limit; None if it has no limit.

    Inactive file pages count as free: the kernel drops them before it kills a process.
    """
    for limit, usage, idle in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, used = _read(group / limit), _read(group / usage)
        if most is None or used is None or most == "max":
            continue
        lines = (line.split() for line in (_read(group / "memory.stat") or "").splitlines())
        cached = next((int(value) for name, value in lines if name == idle), 0)
        return int(most) - int(used) + cached
    return None


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").strip()
    return None
