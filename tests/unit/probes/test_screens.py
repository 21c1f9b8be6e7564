from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.probes.convex import fit_logistic, fit_ridge
from rt_scale.probes.evaluator import screen
from rt_scale.probes.features import Features

FITS = [fit_logistic, fit_ridge]


def accuracy(fit: Any, x: Tensor, y: Tensor, held: Tensor, held_y: Tensor, **more: Any) -> float:
    return screen(fit, Features(x, y), Features(held, held_y), **more)


def clouds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    return centres[y] + torch.randn(n, 2, generator=generator), y


@pytest.mark.parametrize("fit", FITS)
def test_separable_classes_are_told_apart_on_the_test_split(fit: Any) -> None:
    x, y = clouds(200, 1)
    assert accuracy(fit, *clouds(400, 0), x, y, classes=3) > 0.95
    assert accuracy(fit, *clouds(400, 0), x, (y + 1) % 3, classes=3) < 0.05


@pytest.mark.parametrize("fit", FITS)
def test_the_penalty_shrinks_the_weights(fit: Any) -> None:
    penalties: list[dict[str, float]] = [{"l2": 1e-4}, {}, {"l2": 1.0}]
    weak, default, strong = (fit(*clouds(100, 0), classes=3, **penalty).weight.norm() for penalty in penalties)
    assert weak > default > strong > 0


@pytest.mark.parametrize("fit", FITS)
def test_there_is_one_output_a_class(fit: Any) -> None:
    classifier = fit(*clouds(50, 0), classes=7)
    assert (classifier.weight.shape, classifier.bias.shape) == ((7, 2), (7,))


@pytest.mark.parametrize("fit", FITS)
def test_the_penalty_reaches_the_probe(fit: Any) -> None:
    """Far too strong a penalty leaves the biases alone to decide: every image is of the most frequent class."""
    x, y = clouds(300, 0)
    frequent = int(torch.bincount(y).argmax())
    expected = (y == frequent).double().mean().item()
    assert accuracy(fit, x, y, x, y, classes=3, l2=1e3) == pytest.approx(expected)
    assert accuracy(fit, x, y, x, y, classes=3) > 0.9


@pytest.mark.parametrize("fit", FITS)
def test_embeddings_without_information_and_lost_ones_end_too(fit: Any) -> None:
    y = torch.arange(30) % 3
    for value in (0.0, 1.0, float("nan"), float("inf")):
        x = torch.full((30, 4), value)
        assert 0 <= accuracy(fit, x, y, x, y, classes=3) <= 1


@pytest.mark.parametrize("fit", FITS)
def test_no_global_random_state_and_nothing_changed(fit: Any) -> None:
    before = torch.get_rng_state()
    x, y = clouds(60, 0)
    copy = x.clone()
    assert accuracy(fit, x, y, x, y, classes=3) == accuracy(fit, x, y, x, y, classes=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, copy)
