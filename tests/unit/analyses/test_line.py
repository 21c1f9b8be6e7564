"""Positions on a line, barriers by both definitions, distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rt_scale.analyses.line import apart, barrier, positions


def test_positions() -> None:
    assert positions(3).tolist() == [0.0, 0.5, 1.0]
    assert positions(50).tolist() == np.linspace(0, 1, 50).tolist()


def test_both_definitions_of_a_barrier() -> None:
    at = positions(5)
    found = barrier(at, np.array([0.1, 0.5, 0.4, 0.4, 0.3]))
    assert found.over_mean == pytest.approx(0.5 - 0.2)
    assert found.over_line == pytest.approx(0.5 - 0.15)


def test_a_slope_is_a_barrier_over_the_mean_alone() -> None:
    at = positions(5)
    found = barrier(at, at * 0.4)
    assert found.over_mean == pytest.approx(0.2)
    assert found.over_line == pytest.approx(0, abs=1e-15)


def test_a_valley_is_none() -> None:
    assert barrier(positions(3), np.array([1.0, 0.0, 1.0])) == (0.0, 0.0)
    assert barrier(positions(2), np.array([1.0, 3.0])) == (1.0, 0.0)


def test_apart() -> None:
    one = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([0.0]), "count": torch.tensor([9.0])}
    other = {"a": torch.tensor([[0.0, 4.0]]), "b": torch.tensor([0.0]), "count": torch.tensor([0.0])}
    assert apart(one, other, ["a", "b"]) == (5.0, 0.0)
    assert apart(one, one, ["a", "b"]) == (0.0, 1.0)
    assert apart(one, {name: -2 * value for name, value in one.items()}, ["a"]) == (9.0, -1.0)
    assert apart(one, other, ["b"]) == (0.0, 0.0)
