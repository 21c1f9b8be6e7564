from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rt_scale.store.interval import LEAST_SEEDS, STATED, interval

ANY = (-math.inf, math.inf)


@pytest.mark.parametrize("numbers", [[1.0, 2.0, 0.5], [0.3, 0.31, 0.35], [float(number**2) for number in range(12)]])
def test_an_interval_is_scipys(numbers: list[float]) -> None:
    mean, std, n = float(np.mean(numbers)), float(np.std(numbers, ddof=1)), len(numbers)
    expected = stats.t.interval(0.95, n - 1, loc=mean, scale=std / np.sqrt(n))
    assert interval(mean, std, n, ANY) == pytest.approx(expected, rel=1e-12)
    both = interval(np.array([mean, 0.0]), np.array([std, 0.0]), n, ANY)
    assert [end.tolist() for end in both] == [pytest.approx([end, 0.0], rel=1e-12) for end in expected]
    limit = stats.t.interval(0.90, n - 1, loc=mean, scale=std / np.sqrt(n))[0]
    assert interval(mean, std, n, ANY, 0.95)[0] == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_seeds_have_none(n: int) -> None:
    assert all(math.isnan(end) for end in interval(0.5, 0.1, n, (0.0, 1.0)))
    assert all(np.isnan(end).all() for end in interval(np.full(4, 0.5), np.full(4, 0.1), n, (0.0, 1.0)))
    assert (LEAST_SEEDS, "at least 3 seeds" in STATED) == (3, True)


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "expected"),
    [
        (0.9, 0.2, (0.0, 1.0), (0.9 - 0.4968, 1.0)),
        (0.1, 0.2, (0.0, 1.0), (0.0, 0.1 + 0.4968)),
        (0.1, 0.2, ANY, (0.1 - 0.4968, 0.1 + 0.4968)),
        (1.0, 5.0, (0.0, math.inf), (0.0, 1.0 + 12.4207)),
        (1.0, 0.0, (0.0, 1.0), (1.0, 1.0)),
        (-1e-9, 0.0, (0.0, math.inf), (-1e-9, -1e-9)),
    ],
)
def test_an_interval_is_cut_at_what_its_mean_can_be(
    mean: float, std: float, bounds: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert interval(mean, std, 3, bounds) == pytest.approx(expected, abs=1e-4)


def test_cutting_keeps_the_coverage() -> None:
    """Of 4,000 means of 3 accuracies near 1, as many intervals hold the true mean cut as uncut, about 95 %."""
    draws = np.clip(np.random.default_rng(0).normal(0.8, 0.3, (4000, 3)), 0, 1)
    true = float(np.clip(np.random.default_rng(1).normal(0.8, 0.3, 400_000), 0, 1).mean())
    mean, std = draws.mean(axis=1), draws.std(axis=1, ddof=1)
    held = [((low <= true) & (true <= high)) for low, high in (interval(mean, std, 3, b) for b in (ANY, (0.0, 1.0)))]
    assert (held[0] == held[1]).all()
    assert interval(mean, std, 3, ANY)[1].max() > 1.3
    assert interval(mean, std, 3, (0.0, 1.0))[1].max() == 1.0
