"""How wide outputs are compared is decided once a run, of its own shape, and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.data.loader import Batch
from rt_scale.data.prepared import Prepared
from rt_scale.experiments import wide_output
from rt_scale.experiments.objectives import assemble, compared_views
from rt_scale.experiments.settings import Execution
from rt_scale.experiments.wide_output import decided
from rt_scale.models.pair import build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.sharpening import AS_THEY_ARE
from rt_scale.training.targets import ComputedTargets
from rt_scale.training.wide import Compared, Side, by_tiles

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


MULTICROP = {"kind": "multicrop", "global_views": 2, "local_views": 0}
ONE = {"augment": MULTICROP | {"global_views": 1}}
WHOLE: list[tuple[dict[str, Any], str]] = [
    ({"objective.name": "mse"}, "squared error"),
    ({"augment": MULTICROP}, "several views"),
    ({"augment": MULTICROP | {"global_views": 1, "local_views": 1}, "objective.pairing": "opposite"}, "several views"),
    ({"projector.parts": "-/lb/fn/wn/l/fn"}, "more than features times a weight"),
    ({"projector.parts": "-/lb/fn/-/-/-"}, "more than features times a weight"),
]


@pytest.mark.parametrize("earlier", [None, {"wide": "triton"}])
@pytest.mark.parametrize(("changes", "reason"), WHOLE)
def test_where_nothing_is_compared_by_factors_nothing_is_tried(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str, earlier: Any
) -> None:
    monkeypatch.delattr(wide_output, "choose")
    execution = decided(tiny(changes), dataclasses.replace(BEGUN, device=torch.device("cuda"), wide="?"), earlier)
    assert execution.wide == "torch"
    assert reason in execution.wide_reason


@pytest.mark.parametrize(("changes", "reason"), [*WHOLE, ({}, ""), ({"objective.name": "kl"}, ""), (ONE, "")])
def test_that_is_where_the_objective_does_not_either(
    tiny: Tiny, digits: Prepared, changes: dict[str, Any], reason: str
) -> None:
    """With a way of its own an objective compares by factors whatever their number, wherever it can."""
    spec = tiny(changes)
    pair = build_pair(spec, digits.info.channels, digits.info.size)
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    views = 1 + max(student for _, student in compared_views(spec))
    asked: list[str] = []

    def compare(student: Side, teacher: Side, product: torch.dtype) -> Compared:
        asked.append("by factors")
        return by_tiles(student, teacher, product)

    objective = assemble(spec, ComputedTargets(pair.teacher), lambda *_: [inputs] * views, AS_THEY_ARE, "torch")
    objective.compare = compare
    index = torch.arange(4)
    objective(pair.student, Batch(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), index, index), 0)
    assert asked == ([] if reason else ["by factors"])


def test_a_shape_is_tried_once_a_process(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def choose(*given: Any) -> tuple[str, str]:
        asked.append(given)
        return "torch", "it is faster"

    monkeypatch.setattr(wide_output, "choose", choose)
    for changes in ({}, {"student.alpha": 0.1}, {"seeds.student": 3}):
        decided(tiny(changes), BEGUN, None)
    assert len(asked) == 1
    # Of the same dtype, and other kernels.
    for number, changes in enumerate(({"precision": "tf32"}, {"projector.out_dim": 64}, {"train.batch_size": 8}), 2):
        decided(tiny(changes), BEGUN, None)
        assert len(asked) == number
