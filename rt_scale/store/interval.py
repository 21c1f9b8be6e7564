"""The interval that every mean over seeds is shown with."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from scipy.special import stdtrit

T = TypeVar("T", float, np.ndarray)


def half_width(std: T, n: int) -> T:
    """Half of the two-sided 95 % interval of a mean by Student's t: t_{0.975, n-1} std / sqrt(n).

    Args:
        std: sample standard deviation of the ``n`` numbers.
        n: how many, at least 2.
    """
    return float(stdtrit(n - 1, 0.975)) / math.sqrt(n) * std
