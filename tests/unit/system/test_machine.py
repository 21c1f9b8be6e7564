"""Cores and memory under the limits of control groups, as the kernel's own files say them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rt_scale.system import machine

GIB = 1 << 30
NO_LIMIT = 9223372036854771712
"""What version 1 says where there is none: the largest multiple of a page."""


@pytest.fixture(autouse=True)
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores with 64 GiB free, whose control groups are files of the test."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for name, file in (("MEMINFO", "meminfo"), ("MEMBERSHIP", "membership"), ("CGROUPS", "groups")):
        monkeypatch.setattr(machine, name, tmp_path / file)
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:  {64 * GIB // 1024} kB\n")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def groups(tmp_path: Path, membership: str, files: Mapping[str, object]) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9000000 100000"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/../other\n", {"cpu.max": "500000 100000"}, 5),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": 250000, "cpu/a/cpu.cfs_period_us": 100000}, 3),
        ("3:cpu,cpuacct:/host\n", {"cpu/cpu.cfs_quota_us": 200000, "cpu/cpu.cfs_period_us": 100000}, 2),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": -1, "cpu/a/cpu.cfs_period_us": 100000}, 16),
        ("3:cpuset:/a\n", {"cpuset/a/cpu.cfs_quota_us": 100000, "cpuset/a/cpu.cfs_period_us": 100000}, 16),
        ("1:name=systemd:/\n0::/a\n", {"unified/a/cpu.max": "600000 100000"}, 6),
        ("0::/\n", {}, 16),
    ],
)
def test_cores_are_those_of_the_affinity_or_of_the_tightest_quota(
    tmp_path: Path, membership: str, files: Mapping[str, object], cores: int
) -> None:
    groups(tmp_path, membership, files)
    assert machine.allowed_cores() == cores


def test_an_affinity_below_the_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(tmp_path, "0::/\n", {"cpu.max": "400000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert machine.allowed_cores() == 2


@pytest.mark.parametrize(
    ("given", "cores"),
    [
        ({"SLURM_CPUS_ON_NODE": "2"}, 2),
        ({"SLURM_CPUS_ON_NODE": "99"}, 16),
        ({"SLURM_CPUS_ON_NODE": "0"}, 1),
        ({"SLURM_CPUS_ON_NODE": "(null)"}, 16),
        # The shell of sbatch has all that the job has on its node; a task of a step has its own.
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2"}, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "2", "SLURM_STEP_ID": "0"}, 2),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_STEP_ID": "0"}, 8),
        ({"SLURM_CPUS_PER_TASK": "2"}, 16),
    ],
)
def test_a_slurm_job_has_the_cores_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str], cores: int
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert machine.allowed_cores() == cores


@pytest.mark.parametrize(
    ("membership", "files", "gib"),
    [
        ("0::/\n", {"memory.max": "max", "memory.current": 3 * GIB}, 64),
        ("0::/\n", {"memory.max": 8 * GIB, "memory.current": 3 * GIB}, 5),
        (
            "0::/\n",
            {"memory.max": 8 * GIB, "memory.current": 3 * GIB, "memory.stat": f"anon 7\ninactive_file {2 * GIB}"},
            7,
        ),
        ("0::/\n", {"memory.max": 2 * GIB, "memory.current": 3 * GIB}, 0),
        ("0::/\n", {"memory.max": 99 * GIB, "memory.current": 3 * GIB}, 64),
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": 9 * GIB,
                "a/b/memory.current": 0,
                "a/memory.max": 8 * GIB,
                "a/memory.current": 2 * GIB,
            },
            6,
        ),
        (
            "4:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": 8 * GIB,
                "memory/a/memory.usage_in_bytes": 5 * GIB,
                "memory/a/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}",
            },
            4,
        ),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": 8 * GIB, "memory/memory.usage_in_bytes": 5 * GIB}, 3),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": NO_LIMIT, "memory/a/memory.usage_in_bytes": 9}, 64),
    ],
)
def test_free_memory_ends_where_a_limit_does(
    tmp_path: Path, membership: str, files: Mapping[str, object], gib: int
) -> None:
    groups(tmp_path, membership, files)
    assert machine.free_host_memory() == gib * GIB


def test_a_system_without_these_files_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.get)
    (tmp_path / "meminfo").unlink()
    assert machine.free_host_memory() == 3 * 4096
    assert machine.allowed_cores() == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.allowed_cores() == 7


def test_here_they_are_what_this_process_has() -> None:
    code = "from rt_scale.system.machine import *; print(allowed_cores(), free_host_memory())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    cores, free = map(int, ran.stdout.split())
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert 0 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_mig_devices_are_named_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.mig_devices() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,MIG-a, MIG-GPU-b/1/0,GPU-c")
    assert machine.mig_devices() == ["MIG-a", "MIG-GPU-b/1/0"]
