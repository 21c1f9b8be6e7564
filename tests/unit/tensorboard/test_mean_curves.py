from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rt_scale.tensorboard.mean_curves import mean_curves


def seed(*rows: tuple[int, str, float, float]) -> dict[str, list[Any]]:
    columns = zip(*rows, strict=True)
    return dict(zip(("step", "name", "value", "time"), map(list, columns), strict=True))


FIRST = seed((0, "a", 1.0, 10.0), (5, "a", 2.0, 11.0), (5, "b", 7.0, 11.0), (9, "a", 4.0, 12.0))
THIRD = seed((0, "a", 2.0, 1.0), (5, "a", 2.0, 3.0))
SECOND = seed((0, "a", 3.0, 20.0), (5, "a", 2.0, 9.0), (7, "a", 0.0, 22.0), (9, "b", 1.0, 23.0))


def test_mean_and_interval_at_the_steps_that_all_seeds_have() -> None:
    curves = mean_curves([FIRST, SECOND, THIRD], ["a"])
    assert list(curves) == ["a"]
    curve = curves["a"]
    assert curve.steps.tolist() == [0, 5]
    assert curve.times.tolist() == [20.0, 11.0]
    assert curve.mean.tolist() == [2.0, 2.0]
    half = stats.t.ppf(0.975, 2) / 3**0.5  # the standard deviation is 1
    assert curve.low == pytest.approx([2 - half, 2.0])
    assert curve.high == pytest.approx([2 + half, 2.0])


def test_an_accuracys_interval_ends_at_100_percent_and_a_distances_at_0() -> None:
    found = {}
    for name in ("probe/student/knn", "distance/from_init", "a"):
        curves = mean_curves([seed((0, name, value, 1.0)) for value in (1.0, 0.9, 0.2)], [name])
        found[name] = float(curves[name].low[0]), float(curves[name].high[0])
    half = stats.t.ppf(0.975, 2) * stats.sem([1.0, 0.9, 0.2])
    assert found["a"] == pytest.approx((0.7 - half, 0.7 + half))
    assert found["probe/student/knn"] == (0.0, 1.0)
    assert found["distance/from_init"] == pytest.approx((0.0, 0.7 + half))


def test_metrics_are_in_the_order_asked_for_and_those_without_a_common_step_left_out() -> None:
    assert list(mean_curves([FIRST], ["b", "a", "c"])) == ["b", "a"]
    assert list(mean_curves([FIRST, SECOND], ["b", "a"])) == ["a"]
    assert mean_curves([], ["a"]) == {}


def test_of_one_or_two_seeds_the_mean_is_known_and_no_interval() -> None:
    for seeds, mean in (([FIRST], [1.0, 2.0, 4.0]), ([FIRST, SECOND], [2.0, 2.0])):
        curve = mean_curves(seeds, ["a"])["a"]
        assert curve.mean.tolist() == mean
        assert np.isnan([curve.low, curve.high]).all()


def test_a_seed_that_diverged_is_not_hidden() -> None:
    broken = seed((0, "a", math.inf, 1.0), (5, "a", math.nan, 1.0), (9, "a", 2.0, 1.0))
    curve = mean_curves([FIRST, FIRST, broken], ["a"])["a"]
    assert curve.mean[0] == math.inf
    assert math.isnan(curve.mean[1])
    assert curve.mean[2] == pytest.approx(10 / 3)
    assert np.isnan([curve.low, curve.high]).tolist() == [[True, True, False]] * 2


def test_what_was_measured_again_counts_as_measured_last() -> None:
    assert mean_curves([seed((3, "a", 1.0, 1.0), (3, "a", 5.0, 2.0))], ["a"])["a"].mean.tolist() == [5.0]
