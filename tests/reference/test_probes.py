"""Probes against plain implementations: a torch training loop, brute force, scikit-learn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from rt_scale.probes.features import standardise
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.linear import LinearProbes, Problem


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(x).float() / 16, torch.from_numpy(y)
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def by_autograd(x: Tensor, y: Tensor, seed: int, *, epochs: int, batch_size: int, lr: float) -> nn.Linear:
    """The linear probe as anyone would write it, from the same draws."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(x.shape[1], 10).to(x.dtype)
    bound = x.shape[1] ** -0.5
    with torch.no_grad():
        drawn = torch.empty(layer.weight.numel() + 10).uniform_(-bound, bound, generator=generator)
        layer.weight.copy_(drawn[:-10].view(10, -1))
        layer.bias.copy_(drawn[-10:])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), batch_size):
            index = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(x[index]), y[index]).backward()
            optimizer.step()
    return layer


RECIPES = [{"epochs": 10, "batch_size": 256, "lr": 1e-3}, {"epochs": 2, "batch_size": 100, "lr": 3e-2}]


@pytest.mark.parametrize("recipe", RECIPES, ids=["paper", "other"])
def test_linear_probes_of_a_batch_are_plain_training_loops_one_by_one(recipe: Any) -> None:
    """Three networks' embeddings, one far from the origin, each raw and standardised; two of the same seed."""
    x, y, _, _ = digits()
    x = x.double()
    turn = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    given = [(x, y, 0), (x @ turn + 30, y.flip(0), 1), ((x @ turn).relu(), y, 0)]
    fitted = LinearProbes(10, standardized=True, **recipe).fit([Problem(*each) for each in given])
    for (embeddings, labels, seed), pair in zip(given, fitted, strict=True):
        views = embeddings, standardise(embeddings, embeddings)[0]
        for view, ours in zip(views, pair, strict=True):
            plain = by_autograd(view, labels, seed, **recipe)
            torch.testing.assert_close(ours.weight, plain.weight.detach(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(ours.bias, plain.bias.detach(), rtol=1e-9, atol=1e-9)


def test_in_float32_the_accuracies_are_those_of_float64() -> None:
    train_x, train_y, test_x, test_y = digits()
    (pair,) = LinearProbes(10, standardized=True).fit([Problem(train_x, train_y, 0)])
    raw, standardised = (train_x, test_x), standardise(train_x, test_x)
    for ours, (fit, held) in zip(pair, (raw, standardised), strict=True):
        plain = by_autograd(fit.double(), train_y, 0, **RECIPES[0])
        expected = (plain(held.double()).argmax(dim=1) == test_y).double().mean().item()
        assert ours.accuracy(held, test_y) == pytest.approx(expected, abs=1.5 / len(test_y))


def test_the_classifier_starts_uniform() -> None:
    x, y = torch.zeros(1, 400), torch.zeros(1, dtype=torch.int64)
    ((start,),) = LinearProbes(50, lr=0.0, epochs=1).fit([Problem(x, y, 0)])
    values = torch.cat([start.weight.flatten(), start.bias]) * 20
    assert values.abs().max() <= 1
    assert values.abs().max() > 0.999
    assert values.mean().item() == pytest.approx(0, abs=5 / np.sqrt(3 * len(values)))
    assert values.var().item() == pytest.approx(1 / 3, rel=0.03)


@pytest.mark.parametrize("k", [1, 5, 20, 1437])
def test_knn_is_scikit_learns(k: int) -> None:
    # Random directions: no two distances are equal, so that neighbours are well defined.
    turn = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 8
    train_x, train_y, test_x, test_y = digits()
    train_x, test_x = train_x @ turn, test_x @ turn
    theirs = KNeighborsClassifier(k).fit(train_x.numpy(), train_y.numpy())
    expected = theirs.score(test_x.numpy(), test_y.numpy())
    assert knn_accuracy(train_x, train_y, test_x, test_y, k=k, classes=10) == pytest.approx(expected)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_knn_is_brute_force_even_far_from_the_origin(offset: float) -> None:
    """Embeddings of deep random networks are nearly parallel: their differences are small beside them."""
    generator = torch.Generator().manual_seed(0)
    train_x = torch.randn(200, 7, generator=generator) + offset
    test_x = torch.randn(90, 7, generator=generator) + offset
    train_y, test_y = torch.randint(0, 4, (200,), generator=generator), torch.arange(90) % 4
    right = 0
    for a, label in zip(test_x.double(), test_y.tolist(), strict=True):
        nearest = (train_x.double() - a).square().sum(dim=1).argsort()[:9]
        votes = Counter(train_y[nearest].tolist())
        right += label == min(votes, key=lambda cls: (-votes[cls], cls))
    assert knn_accuracy(train_x, train_y, test_x, test_y, k=9, classes=4) == right / 90


def test_standardisation_is_scikit_learns() -> None:
    train_x, _, test_x, _ = digits()
    scaler = StandardScaler().fit(train_x.double().numpy())
    for ours, given in zip(standardise(train_x, test_x), (train_x, test_x), strict=True):
        expected = torch.from_numpy(scaler.transform(given.double().numpy()))
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
