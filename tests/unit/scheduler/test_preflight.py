"""What is refused before a sweep starts, of its device."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from rt_scale.scheduler import preflight
from rt_scale.scheduler.preflight import refuse_hidden_gpus
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec


def test_a_gpu_that_runs_do_not_see_is_refused() -> None:
    for device in ("auto", "cpu"):
        refuse_hidden_gpus([LaunchSpec()], device)
    refuse_hidden_gpus([LaunchSpec(gpus=0.5), LaunchSpec(gpus=1, workers=2)], "cuda")
    refuse_hidden_gpus([LaunchSpec(gpus=0.5)], "cuda:0")
    refuse_hidden_gpus([LaunchSpec(gpus=2)], "cuda:1")
    with pytest.raises(InputError, match=r"launch\.gpus is 0.*--gpus 1"):
        refuse_hidden_gpus([LaunchSpec(gpus=1), LaunchSpec()], "cuda")
    with pytest.raises(InputError, match=r"--device cuda:1 was given, but a worker sees 1 of.*CUDA_VISIBLE_DEVICES"):
        refuse_hidden_gpus([LaunchSpec(gpus=1)], "cuda:1")


def test_the_driver_lets_another_process_try_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would keep some of its memory for the driver."""
    asked, answers = list[list[str]](), iter([(0, ""), (1, "warning\nThe device 'cuda' cannot be used here.\n")])

    def run(words: list[str], **_: Any) -> Any:
        asked.append(words[3:])
        code, text = next(answers)
        return subprocess.CompletedProcess(words, code, "", text)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    preflight._check_device("cuda", ["float32", "tf32"])
    with pytest.raises(InputError, match=r"^The device 'cuda' cannot"):
        preflight._check_device("auto", ["tf32"])
    preflight._check_device("cpu", ["float32"])
    assert asked == [["cuda", "float32", "tf32"], ["auto", "tf32"]]


def test_what_that_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # here alone
    with pytest.raises(InputError, match="The device 'cuda:97' cannot be used here"):
        preflight._check_device("cuda:97", [])
