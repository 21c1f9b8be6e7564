"""GPUs that fail; here there is none, so a new process finds none that works."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import device
from rt_scale.ray_backend.device import require_gpus, works
from rt_scale.spec.errors import DeviceLost


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    works.cache_clear()


def test_a_new_process_decides_whether_a_gpu_works(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(words: list[str], **_: Any) -> Any:
        calls.append(words)
        return subprocess.CompletedProcess(words, len(calls) - 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert works()
    assert works()  # asked once
    works.cache_clear()
    assert not works()
    assert len(calls) == 2

    def hang(words: list[str], **_: Any) -> Any:
        raise subprocess.TimeoutExpired(words, 1)

    monkeypatch.setattr(subprocess, "run", hang)
    works.cache_clear()
    assert not works()


def test_what_it_is_asked_to_compute_is_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert works() == torch.cuda.is_available()
    on_the_cpu = device.TRY.replace("cuda:{index}", "cpu").replace("assert torch.cuda", "torch.cuda")
    monkeypatch.setattr(device, "TRY", on_the_cpu)
    works.cache_clear()
    assert works()


def test_no_run_takes_the_cpu_for_a_gpu_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus: list[int] = []
    monkeypatch.setattr("ray.get_gpu_ids", lambda: gpus)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(device, "DRIVER", tmp_path)
    require_gpus("auto")
    gpus.append(3)
    require_gpus("cpu")
    with pytest.raises(DeviceLost, match="no CUDA device"):
        require_gpus("auto")
    monkeypatch.setattr(device, "DRIVER", tmp_path / "none")  # GPUs are pretended
    require_gpus("auto")
    monkeypatch.setattr(device, "DRIVER", tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    require_gpus("auto")
