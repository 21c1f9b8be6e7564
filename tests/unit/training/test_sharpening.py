"""Centring and temperature step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.training.teacher import AS_THEY_ARE, Sharpening


def logits(seed: int = 0, rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_without_either_the_logits_are_the_very_same() -> None:
    assert set(AS_THEY_ARE) == {"teacher", "student"}
    for sharpening in (*AS_THEY_ARE.values(), Sharpening("constant(1)", None, steps=3)):
        z = logits()
        assert sharpening(z, 0) is z
        assert sharpening.centre is None


def test_temperatures_divide() -> None:
    sharpening = Sharpening("linear(0.5, 0.1)", steps=4, steps_per_epoch=2)
    for step, temperature in enumerate([0.5, 0.4, 0.3, 0.2]):
        torch.testing.assert_close(sharpening(logits(), step), logits() / temperature)
    torch.testing.assert_close(Sharpening(0.04)(logits(), 7), logits() / 0.04)
    assert sharpening.centre is None


def test_the_centre_is_that_of_the_batches_before() -> None:
    sharpening = Sharpening(center=0.75)
    first, second, third = logits(1), logits(2, rows=6), logits(3)
    torch.testing.assert_close(sharpening(first, 0), first)
    after_one = 0.25 * first.mean(0)
    torch.testing.assert_close(sharpening.centre, after_one)
    torch.testing.assert_close(sharpening(second, 1), second - after_one)
    after_two = 0.75 * after_one + 0.25 * second.mean(0)
    torch.testing.assert_close(sharpening(third, 2), third - after_two)
    torch.testing.assert_close(sharpening.centre, 0.75 * after_two + 0.25 * third.mean(0))


def test_the_centre_is_taken_off_before_the_division_and_made_of_plain_logits() -> None:
    sharpening = Sharpening(0.5, 0.9)
    sharpening.centre = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    centre = sharpening.centre.clone()
    torch.testing.assert_close(sharpening(logits(), 0), (logits() - centre) / 0.5)
    torch.testing.assert_close(sharpening.centre, 0.9 * centre + 0.1 * logits().mean(0))


@pytest.mark.parametrize(
    ("momentum", "factors"), [("linear(0, 1)", [0, 0.25, 0.5, 0.75]), (1.0, [1] * 4), (0.0, [0] * 4)]
)
def test_the_centres_momentum_is_that_of_the_step(momentum: float | str, factors: list[float]) -> None:
    sharpening = Sharpening(center=momentum, steps=4, steps_per_epoch=2)
    centre = torch.zeros(3, dtype=torch.float64)
    for step, factor in enumerate(factors):
        sharpening(logits(step), step)
        centre = factor * centre + (1 - factor) * logits(step).mean(0)
        torch.testing.assert_close(sharpening.centre, centre)


@pytest.mark.parametrize("length", ["1ep", "2it", "50%"])
def test_lengths_count_steps_epochs_and_shares(length: str) -> None:
    sharpening = Sharpening(f"constant(0.5, {length}) + constant(0.25)", steps=4, steps_per_epoch=2)
    for step, temperature in enumerate([0.5, 0.5, 0.25, 0.25]):
        torch.testing.assert_close(sharpening(logits(), step), logits() / temperature)


def test_a_step_out_of_order_has_its_own_numbers() -> None:
    """A resumed run begins in the middle."""
    resumed = Sharpening("linear(0.5, 0.1)", "linear(0, 1)", steps=4)
    torch.testing.assert_close(resumed(logits(), 3), logits() / 0.2)
    torch.testing.assert_close(resumed.centre, 0.25 * logits().mean(0))


def test_gradients_do_not_reach_the_centre() -> None:
    sharpening = Sharpening(0.5, 0.5)
    sharpening(logits(1).requires_grad_(), 0)
    assert not sharpening.centre.requires_grad
    z = logits(2).requires_grad_()
    (gradient,) = torch.autograd.grad(sharpening(z, 1).sum(), z)
    torch.testing.assert_close(gradient, torch.full_like(z, 2.0))


def test_a_centre_has_the_dtype_of_the_logits_and_arguments_stay() -> None:
    sharpening, z = Sharpening(0.5, 0.5), logits().float()
    sharpening(z, 0)
    assert sharpening.centre.dtype == torch.float32
    assert torch.equal(z, logits().float())
