"""The interval that every mean over seeds is shown with."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

from rt_scale.spec.metrics import Bounds

T = TypeVar("T", float, np.ndarray)
LEAST_SEEDS = 3
"""Fewest seeds that a mean has an interval of, and that anything is concluded from: of two, Student's interval reaches
12.7 standard errors to either side."""
STATED = (
    f"Intervals are two-sided 95 % ones of the mean by Student's t over at least {LEAST_SEEDS} seeds, cut at what the "
    "mean can be (0 to 100 % of an accuracy)."
)
"""What is said of intervals where they are shown."""


def interval(mean: T, std: T, n: int, bounds: Bounds, confidence: float = 0.975) -> tuple[T, T]:
    """mean -+ t_{confidence, n-1} std / sqrt(n), cut at ``bounds``: the mean lies within, so cutting loses no coverage.

    Args:
        mean: of ``n`` numbers.
        std: their sample standard deviation.
        n: how many.
        bounds: what such a number can be, least and most, see ``metric_bounds``.
        confidence: of each end on its own.

    Returns:
        Lower and upper end, which hold the mean between them; NaN of fewer than ``LEAST_SEEDS`` numbers.
    """
    half = std * (float(stdtrit(n - 1, confidence)) / math.sqrt(n) if n >= LEAST_SEEDS else math.nan)
    low, high = bounds
    # A mean may itself be beyond a bound, by rounding: a divergence of -1e-9.
    lower = np.minimum(mean, np.maximum(mean - half, low))
    upper = np.maximum(mean, np.minimum(mean + half, high))
    return lower, upper
