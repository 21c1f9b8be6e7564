from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rt_scale.store.interval import half_width


@pytest.mark.parametrize("numbers", [[1.0, 2.0], [0.3, 0.31, 0.35], [float(number**2) for number in range(12)]])
def test_half_width_is_that_of_scipys_t_interval(numbers: list[float]) -> None:
    std, n = float(np.std(numbers, ddof=1)), len(numbers)
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(numbers), scale=std / np.sqrt(n))
    assert half_width(std, n) == pytest.approx((high - low) / 2, rel=1e-12)
    assert half_width(np.array([std, 2 * std]), n) == pytest.approx([(high - low) / 2, high - low], rel=1e-12)
