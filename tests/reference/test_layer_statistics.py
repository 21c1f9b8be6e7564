"""Statistics of layers against closed forms, and against numpy on the matrices as they are defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rt_scale.probes.statistics import layer_statistics
from tests.reference.test_statistics import noise, with_singular_values


def by_numpy(x: Tensor, y: Tensor) -> dict[str, float]:
    """As defined: pairs one by one, the covariance in full, scatter matrices of classes."""
    values, labels = x.double().numpy(), y.numpy()
    n = len(values)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    lengths = np.linalg.norm(values, axis=1)
    cosines = [values[i] @ values[j] / (lengths[i] * lengths[j]) for i, j in pairs]
    kept = values[:, np.ptp(values, axis=0) > 0]
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(kept, rowvar=False, bias=True)))[::-1][: min(n - 1, kept.shape[1])]
    shares = np.sqrt(spectrum) / np.sqrt(spectrum).sum()
    mean, between, total = kept.mean(0), 0.0, 0.0
    for label in set(labels):
        own = kept[labels == label]
        between += len(own) * ((own.mean(0) - mean) ** 2).sum()
        total += ((own - mean) ** 2).sum()
    return {
        "cosine": float(np.mean(cosines)),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "log_condition": float(np.log10(spectrum[0] / spectrum[-1])),
        "separability": between / total,
    }


@pytest.mark.parametrize(("samples", "width"), [(60, 7), (12, 40)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_as_defined(samples: int, width: int, offset: float) -> None:
    x = noise(samples, width) @ noise(width, width, seed=1) + offset
    x[:, 1] = 2.0  # a dimension that does not vary has no part in the condition
    y = torch.arange(samples) % 3
    assert layer_statistics(x, y) == pytest.approx(by_numpy(x, y), rel=1e-6)


@pytest.mark.parametrize(("samples", "width"), [(50, 8), (9, 50)])
def test_a_covariance_whose_spectrum_is_known(samples: int, width: int) -> None:
    singular = [10.0 ** (-each / 2) for each in range(8)]
    x = with_singular_values(singular, samples, width) + 5
    found = layer_statistics(x, torch.zeros(samples, dtype=torch.int64))
    assert found["log_condition"] == pytest.approx(7, rel=1e-9)
    shares = np.array(singular) / sum(singular)
    assert found["effective_rank"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_orthogonal_images_are_as_far_apart_as_can_be() -> None:
    found = layer_statistics(3 * torch.eye(6), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert found["cosine"] == pytest.approx(0, abs=1e-15)
    assert found["effective_rank"] == pytest.approx(5)  # 6 directions less their mean
    assert found["log_condition"] == pytest.approx(0, abs=1e-9)
    # Class means are 1/6 from the mean in each of 6 dimensions, images sqrt(5/6) from it.
    assert found["separability"] == pytest.approx(1 / 5)


def test_images_on_one_ray_have_rank_one() -> None:
    x = torch.arange(1.0, 9.0)[:, None] * noise(1, 5)
    found = layer_statistics(x, torch.arange(8) % 2)
    assert found["cosine"] == pytest.approx(1)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert found["log_condition"] == pytest.approx(14)
    # 1, 3, 5, 7 and 2, 4, 6, 8: means 4 and 5, 8 x 1/4 of 42.
    assert found["separability"] == pytest.approx(2 / 42)


@pytest.mark.parametrize(("distance", "expected"), [(0.0, 0.0), (1.0, 0.5), (1e6, 1.0)])
def test_classes_at_a_known_distance(distance: float, expected: float) -> None:
    """Means at +-distance in one dimension, deviations of 1 in another."""
    x = torch.tensor([[side * distance, other] for side in (-1, 1) for other in (-1.0, 1.0)])
    found = layer_statistics(x, torch.tensor([0, 0, 1, 1]))
    assert found["separability"] == pytest.approx(expected, abs=1e-6)


def test_labels_at_random_separate_by_their_number_alone() -> None:
    x = noise(2000, 30)
    found = layer_statistics(x, torch.randint(10, (2000,), generator=torch.Generator().manual_seed(3)))
    assert found["separability"] == pytest.approx(9 / 1999, rel=0.2)


def test_collapsed_and_diverged_layers_have_statistics_too() -> None:
    y = torch.tensor([0, 1, 0])
    same = layer_statistics(torch.full((3, 4), 0.1), y)
    assert same == {"cosine": pytest.approx(1), "effective_rank": 0.0, "log_condition": 14.0, "separability": 0.0}
    assert layer_statistics(torch.zeros(3, 4), y)["cosine"] == 0
    assert all(math.isnan(each) for each in layer_statistics(torch.tensor([[1.0], [math.inf], [2.0]]), y).values())
    # In float32 the mean would hide what is left.
    near = layer_statistics(torch.tensor([[1000.0], [1000.0 + 2**-13], [1000.0 + 2**-12]]), torch.tensor([0, 1, 1]))
    assert near["separability"] == pytest.approx(0.75)
