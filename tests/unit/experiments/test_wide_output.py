"""How wide outputs are compared is decided once a run, of its own shape, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.experiments import wide_output
from rt_scale.experiments.settings import Execution
from rt_scale.experiments.wide_output import decided
from rt_scale.spec.run import RunSpec

Tiny = Callable[..., RunSpec]
BEGUN = Execution(torch.device("cpu"), 1, True, True, "map", "asked for", workers=3)


@pytest.mark.parametrize(
    ("earlier", "kept"),
    [(None, None), ({"wide": "triton"}, "triton"), ({"wide": "torch"}, "torch"), ({"cpu": 1}, "torch")],
)
@pytest.mark.parametrize(("precision", "product"), [("bf16", torch.bfloat16), ("float64", torch.float64)])
def test_the_choice_is_of_the_runs_shape_and_what_it_began_with(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, earlier: Any, kept: str | None, precision: str, product: torch.dtype
) -> None:
    asked: list[Any] = []

    def choose(*given: Any) -> tuple[str, str]:
        asked.append(given)
        return "triton", "it is faster"

    monkeypatch.setattr(wide_output, "choose", choose)
    spec = tiny({"precision": precision, "train.batch_size": 64, "projector.out_dim": 96, "projector.bottleneck": 7})
    execution = decided(spec, BEGUN, earlier)
    assert asked == [(BEGUN.device, 22, 96, 7, product, kept)]
    assert execution.to_json() == BEGUN.to_json() | {"wide": "triton", "wide_reason": "it is faster"}


def test_on_a_cpu_it_is_torch(tiny: Tiny) -> None:
    execution = decided(tiny(), BEGUN, None)
    assert (execution.wide, execution.wide_reason) == ("torch", "the kernel is for NVIDIA GPUs")
