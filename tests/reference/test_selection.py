"""What choosing the best epoch on the test split is worth: the estimator against its definition and a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from rt_scale.report.beside import selection_bias


def naive(curves: np.ndarray) -> list[float]:
    """b_s = max_e a_s(e) - a_s(argmax_e mean of the other seeds), seed by seed; curves [S, E]."""
    found = []
    for seed in range(len(curves)):
        others = np.delete(curves, seed, axis=0).mean(axis=0)
        found.append(curves[seed].max() - curves[seed][int(np.argmax(others))])
    return found


def test_the_formula() -> None:
    curves = np.random.default_rng(0).uniform(size=(5, 30))
    assert selection_bias(curves.tolist()) == pytest.approx(naive(curves), abs=1e-15)


@pytest.mark.parametrize("evaluations", [5, 30])
def test_of_noise_alone_it_is_the_expected_maximum(evaluations: int) -> None:
    """E[max of k standard normals] = integral of x k phi(x) Phi(x)^(k - 1)."""
    noise = np.random.default_rng(1).normal(0.5, 0.01, size=(4000, evaluations))
    expected, _ = integrate.quad(
        lambda x: x * evaluations * stats.norm.pdf(x) * stats.norm.cdf(x) ** (evaluations - 1), -10, 10
    )
    found = [value for three in noise.reshape(-1, 4, evaluations) for value in selection_bias(three.tolist())]
    error = np.std(found) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(0.01 * expected, abs=4 * error)


def test_a_peak_that_all_seeds_have_costs_nothing() -> None:
    peak = np.sin(np.linspace(0, 3, 20))
    assert selection_bias([peak.tolist()] * 3) == [0, 0, 0]
    noisy = peak + np.random.default_rng(2).normal(0, 1e-4, size=(3, 20))
    assert max(selection_bias(noisy.tolist())) < 1e-3
