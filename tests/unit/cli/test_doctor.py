from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rt_scale.cli import doctor
from rt_scale.cli.doctor import PACKAGES, Finding, examine
from rt_scale.data.prepare import open_prepared
from rt_scale.store.objects.store import ObjectStore
from rt_scale.store.store import Store

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFCV takes seconds to import; here it loads at once."""
    answer = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(doctor, "_python", lambda code: answer)


def found(tmp_path: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(Store(tmp_path / "store"), tmp_path / "data")}


def test_a_machine_as_it_is(tmp_path: Path) -> None:
    findings = found(tmp_path)
    assert findings["torch"] == Finding("torch", "ok", importlib.metadata.version("torch"))
    assert {*PACKAGES, "python", "cpu", "ffcv", "ray shared memory", "store", "prepared data"} <= set(findings)
    assert findings["cpu"].detail.startswith(f"{len(os.sched_getaffinity(0))} cores for this process, ")
    assert findings["data sets"].remedy == "rt-scale data prepare NAME"
    assert ("gpu" in findings) is not torch.cuda.is_available()
    assert not (tmp_path / "store").exists()


def test_whatever_is_missing_comes_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name in {"tensorboard", "ffcv"}:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    findings = found(tmp_path)
    assert findings["tensorboard"] == Finding("tensorboard", "missing", "not installed", "bash cluster/bootstrap.sh")
    assert (findings["ffcv"].state, findings["ffcv"].remedy) == ("missing", "bash cluster/bootstrap.sh")
    assert findings["torch"].state == "ok"


def test_an_ffcv_that_does_not_load_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    failed = subprocess.CompletedProcess(
        [], 1, "", "Traceback\n  more\nImportError: libopencv_core.so.406: not there\n"
    )
    monkeypatch.setattr(doctor, "_python", lambda code: failed)
    finding = found(tmp_path)["ffcv"]
    assert finding.state == "missing"
    assert finding.detail == "1.0 does not load: ImportError: libopencv_core.so.406: not there"
    assert finding.remedy.startswith("apt-get install ")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    locked = tmp_path / "locked"
    locked.mkdir()
    # Root may write everywhere; this is what access says to everyone else.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and access(path, mode))
    findings = {f.what: f for f in examine(Store(locked / "deep" / "store"), locked / "data")}
    assert findings["store"].state == findings["prepared data"].state == "missing"
    assert f"{locked} cannot be written" in findings["store"].detail
    assert findings["store"].remedy == "choose another with --store or RT_SCALE_STORE"
    assert findings["prepared data"].remedy == "choose another with --data-dir or RT_SCALE_DATA"


def test_an_object_store_is_named_by_its_address(tmp_path: Path) -> None:
    bucket: Any = SimpleNamespace(address="s3://bucket/place")
    findings = {f.what: f for f in examine(ObjectStore(bucket, tmp_path / "mirror"), tmp_path / "data")}
    assert findings["store"].detail.startswith(f"s3://bucket/place, mirrored in {tmp_path / 'mirror'}, ")


@pytest.mark.parametrize(("free", "store", "memory"), [(2**27, "note", "missing"), (2**40, "ok", "ok")])
def test_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, store: str, memory: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**41, 0, free))
    findings = found(tmp_path)
    assert (findings["store"].state, findings["ray shared memory"].state) == (store, memory)
    assert bool(findings["store"].remedy) is (store == "note")
    assert ("/dev/shm" in findings["ray shared memory"].remedy) is (memory == "missing")


def test_prepared_data_are_listed_and_damaged_ones_told(tmp_path: Path) -> None:
    open_prepared("digits", tmp_path / "data")
    assert found(tmp_path)["data sets"] == Finding("data sets", "ok", "digits")
    (tmp_path / "data" / "digits" / "meta.json").write_text("{")
    finding = found(tmp_path)["data sets"]
    assert finding.state == "missing"
    assert "rt-scale data prepare digits" in finding.detail


def test_gpus_are_named_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "mem_get_info": lambda index: (2**30 * (index + 1), 2**33),
        "get_device_name": lambda index: f"GPU-{index}",
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b,MIG-c")
    findings = found(tmp_path)
    assert findings["mig"].detail.startswith("3 MIG devices for runs")
    assert findings["gpu 1"] == Finding("gpu 1", "ok", "GPU-1, 2.0 of 8.0 GiB free")
    assert findings["gpu 0"].detail.startswith("GPU-0, 1.0 of")
