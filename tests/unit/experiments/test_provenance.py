from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rt_scale.experiments import provenance
from rt_scale.experiments.provenance import VERSIONS, attempt_record, git_state
from rt_scale.store.results import BatchSize, Cpu
from rt_scale.system.machine import allowed_cores
from tests.records import run_record


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *who, "-C", folder, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_it_is_what_runs(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    inside, installed = tmp_path / "package", tmp_path / "site-packages"
    for folder in (inside, installed):
        folder.mkdir()
        (folder / "notes.txt").write_text("not followed by git")
    assert git_state(installed) == (None, None)
    (inside / "module.py").write_text("")
    git(tmp_path, "add", "package/module.py")
    git(tmp_path, "commit", "-qm", "second")
    assert git_state(inside) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "code.py").write_text("a = 2\n")
    git_state.cache_clear()
    assert git_state(inside) == (git(tmp_path, "rev-parse", "HEAD"), True)


def test_no_checkout_is_said_to_be_none(tmp_path: Path) -> None:
    assert git_state(tmp_path / "nowhere") == (None, None)


def test_an_attempt_says_what_it_was_computed_with() -> None:
    record = attempt_record(run_record(execution={"threads": 3}).execution, BatchSize())
    assert record.threads == 3
    assert torch.__version__.startswith(record.versions["torch"] or "")
    assert set(record.versions) == set(VERSIONS)
    commit, dirty = git_state(Path(provenance.__file__).parent)
    assert (record.git_commit, record.git_dirty) == (commit, dirty)
    assert record.cpu == Cpu(model=provenance.cpu_model(), cores=allowed_cores())
    assert record.gpu is None


def test_the_processor_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some: Processor\nmodel name\t: Another\n")
    monkeypatch.setattr(provenance, "CPUINFO", file)
    provenance.cpu_model.cache_clear()
    assert provenance.cpu_model() == "Some: Processor"
    provenance.cpu_model.cache_clear()
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "none")
    assert provenance.cpu_model() == (platform.processor() or None)
    provenance.cpu_model.cache_clear()


@pytest.mark.parametrize(
    ("script", "driver"), [("echo 535.129.03; echo 535.129.03", "535.129.03"), ("echo no; exit 9", None), ("", None)]
)
def test_the_driver_as_its_own_program_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, driver: str | None
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    provenance.gpu_driver.cache_clear()
    assert provenance.gpu_driver() == driver
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    provenance.gpu_driver.cache_clear()
    assert provenance.gpu_driver() is None
    provenance.gpu_driver.cache_clear()


def test_a_gpu_is_described_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: what torch says of one is put in its place."""
    properties = SimpleNamespace(total_memory=150_000_000_000, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(provenance, "gpu_driver", lambda: "570.86.15")
    record = attempt_record(run_record(execution={"device": "cuda", "gpus": 0.5}).execution, BatchSize())
    assert record.device == "NVIDIA H200"
    assert record.gpu is not None
    assert record.gpu.to_json() == {
        "memory": 150_000_000_000, "capability": "9.0", "driver": "570.86.15", "cuda": "12.8", "cudnn": 91002,
    }  # fmt: skip
