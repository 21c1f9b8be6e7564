"""Views of a step, and what is known about targets and logits from the spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.check import constant_targets
from rt_scale.experiments.objectives import build_sharpenings, build_views
from rt_scale.spec.run import RunSpec

Tiny = Callable[..., RunSpec]
MULTICROP = {
    "augment": {"kind": "multicrop", "global_views": 2, "local_views": 3, "global_size": 8, "local_size": 4},
    "objective.pairing": "all",
}
CROP_FLIP = {"augment": {"kind": "crop_flip", "padding": 2}}


@pytest.fixture(scope="module")
def images(digits: Prepared) -> torch.Tensor:
    return torch.from_numpy(digits.train.read_all()[:16])


def epochs_of(steps: int) -> Any:
    """What views ask of a loader."""
    return SimpleNamespace(steps=steps, world=1)


@pytest.mark.parametrize(
    ("changes", "shapes"),
    [
        ({}, [(16, 1, 8, 8)]),
        ({"data.size": 12}, [(16, 1, 12, 12)]),
        (CROP_FLIP, [(16, 1, 8, 8)]),
        ({**CROP_FLIP, "data.size": 12}, [(16, 1, 12, 12)]),
        (MULTICROP, [(16, 1, 8, 8)] * 2 + [(16, 1, 4, 4)] * 3),
    ],
)
def test_views_have_their_number_and_size(
    tiny: Tiny, digits: Prepared, images: torch.Tensor, changes: dict[str, Any], shapes: list[tuple[int, ...]]
) -> None:
    views = build_views(tiny({**changes, "precision": "float64"}), digits.info, True, epochs_of(4))(images, 0)
    assert [tuple(view.shape) for view in views] == shapes
    assert {view.dtype for view in views} == {torch.float64}


@pytest.mark.parametrize("changes", [CROP_FLIP, MULTICROP], ids=["crop_flip", "multicrop"])
def test_views_are_a_function_of_seed_and_step(
    tiny: Tiny, digits: Prepared, images: torch.Tensor, changes: dict[str, Any]
) -> None:
    def first(step: int, seed: int = 0, steps_per_epoch: int = 4) -> torch.Tensor:
        spec = tiny({**changes, "seeds.data": seed})
        return build_views(spec, digits.info, True, epochs_of(steps_per_epoch))(images, step)[0]

    assert torch.equal(first(5), first(5))
    for other in (first(1), first(4), first(6), first(5, seed=1), first(5, steps_per_epoch=3)):
        assert not torch.equal(first(5), other)


def test_without_augmentation_every_step_is_the_same(tiny: Tiny, digits: Prepared, images: torch.Tensor) -> None:
    views = build_views(tiny(), digits.info, True, epochs_of(4))
    assert torch.equal(views(images, 0)[0], views(images, 9)[0])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("changes", [{}, CROP_FLIP, MULTICROP], ids=["none", "crop_flip", "multicrop"])
def test_views_have_the_memory_format(
    tiny: Tiny, digits: Prepared, changes: dict[str, Any], channels_last: bool
) -> None:
    colour = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    info = dataclasses.replace(digits.info, mean=(0.5,) * 3, std=(0.2,) * 3)
    for view in build_views(tiny(changes), info, channels_last, epochs_of(4))(colour, 0):
        assert view.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert view.is_contiguous() is not channels_last


@pytest.mark.parametrize(
    ("changes", "constant"),
    [
        ({}, True),
        ({"teacher.center": 0.9, "teacher.temperature": 0.1, "student.alpha": 1.0}, True),
        ({"teacher.start_from": {"run": "same"}}, True),
        ({"teacher.update": "ema"}, False),
        ({"teacher.update": "previous_epoch"}, False),
        ({"teacher.mode": "train"}, False),
        ({"teacher.statistics": "data"}, False),
        (CROP_FLIP, False),
        (MULTICROP, False),
        ({"kind": "supervise", "projector.out_dim": 10}, False),
    ],
)
def test_targets_that_can_be_kept(tiny: Tiny, changes: dict[str, Any], constant: bool) -> None:
    assert constant_targets(tiny(changes)) is constant


def test_logits_are_treated_as_each_network_says(tiny: Tiny) -> None:
    spec = tiny({"teacher.temperature": "linear(1, 2)", "teacher.center": 0.9, "student.temperature": 0.1})
    made = build_sharpenings(spec, steps=8, steps_per_epoch=4)
    assert [made["teacher"].temperature.value(step, 8, 4) for step in (0, 4)] == [1.0, 1.5]
    assert made["student"].temperature.value(3, 8, 4) == 0.1
    assert (made["teacher"].momentum is None, made["student"].momentum is None) == (False, True)
    assert (made["teacher"].steps, made["teacher"].steps_per_epoch) == (8, 4)
