"""What float32 means is said for the whole process, and asked for where it can be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rt_scale.spec.errors import InputError
from rt_scale.training.precision import check_precision, set_precision

BACKENDS: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = [backend.allow_tf32 for backend in BACKENDS]
    yield
    for backend, precision in zip(BACKENDS, before, strict=True):
        backend.allow_tf32 = precision


@pytest.mark.parametrize("before", ["tf32", "float32"])
@pytest.mark.parametrize(
    ("precision", "allowed"), [("float32", False), ("float64", False), ("bf16", False), ("tf32", True)]
)
def test_the_spec_decides_whatever_was_before(before: str, precision: str, allowed: bool) -> None:
    set_precision(before)
    set_precision(precision)
    assert [backend.allow_tf32 for backend in BACKENDS] == [allowed] * 2
    convolution: Any = torch.backends.cudnn.conv
    assert (convolution.fp32_precision == "tf32") is allowed


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_device_has_the_others(precision: str, device: str) -> None:
    check_precision(precision, torch.device(device))


@pytest.mark.parametrize(("device", "capability"), [("cpu", (9, 0)), ("mps", (9, 0)), ("cuda", (7, 5))])
def test_tf32_is_refused_where_there_is_none(
    device: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(InputError, match=f"since Ampere, and the run is to use '{device}'.*precision to float32"):
        check_precision("tf32", torch.device(device))


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0)])
def test_tf32_is_taken_from_ampere_on(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    check_precision("tf32", torch.device("cuda"))
