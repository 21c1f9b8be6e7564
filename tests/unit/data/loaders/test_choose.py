"""Which reader serves a run's images: the rule."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import pytest
import torch

from rt_scale.data.loaders.choose import SHARE, choose_loader
from rt_scale.spec.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def memory(cpu: int, gpu: int = 0) -> Callable[[torch.device], int]:
    return lambda device: gpu if device.type == "cuda" else cpu


@pytest.mark.parametrize(
    ("asked", "needed", "device", "cpu", "gpu", "chosen", "words"),
    [
        ("auto", 100, CPU, 1000, 0, "resident", "less than 50%"),
        ("auto", 500, CPU, 1000, 0, "resident", "free on cpu"),
        ("auto", 501, CPU, 1000, 0, "ffcv", "more than 50%"),
        ("auto", 100, GPU, 1000, 200, "resident", "free on cuda:0"),
        ("auto", 101, GPU, 1000, 200, "host", "free on cpu"),
        ("auto", 501, GPU, 1000, 200, "ffcv", "more than"),
        ("resident", 501, CPU, 1000, 0, "host", "asked for, though"),
        ("resident", 10, CPU, 1000, 0, "resident", "less than"),
        ("ffcv", 1, CPU, 1000, 0, "ffcv", "asked for"),
        ("map", 1, CPU, 1000, 0, "map", "asked for"),
    ],
)
def test_the_rule(asked: str, needed: int, device: torch.device, cpu: int, gpu: int, chosen: str, words: str) -> None:
    choice = choose_loader(asked, needed, device, memory(cpu, gpu))
    assert choice.name == chosen
    assert words in choice.reason
    assert SHARE == 0.5


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_without_ffcv_the_map_reads_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    choice = choose_loader("auto", 501, CPU, memory(1000))
    assert choice.name == "map"
    assert "FFCV cannot be used here ('rt-scale doctor' says why)" in choice.reason


def test_unknown_loaders_are_refused() -> None:
    for needed in (1, 0):
        with pytest.raises(InputError, match=r"resident.*ffcv"):
            choose_loader("residant", needed, CPU, memory(1000))


@pytest.mark.parametrize("asked", ["auto", "resident", "ffcv", "map"])
def test_what_is_drawn_has_no_reader(asked: str) -> None:
    assert choose_loader(asked, 0, CPU, memory(0)) == ("drawn", "Gaussian inputs are made where they are used")
