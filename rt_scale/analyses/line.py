"""Lines between two networks: the points on them, barriers, and how far the networks are apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from rt_scale.models.networks import Weights


def positions(points: int) -> np.ndarray:
    """``points`` equally spaced positions from 0 to 1, both included, float64; there is no midpoint if it is even."""
    return np.linspace(0.0, 1.0, points)


class Barrier(NamedTuple):
    """How far a curve rises between its ends, in its own unit; at least 0, since the ends are on the curve.

    Attributes:
        over_mean: highest value less the mean of both ends (Frankle et al. 2020, arXiv:1912.05671, section 2).
        over_line: largest of value less the straight line between the values of the ends (Entezari et al. 2022,
            arXiv:2110.06296, section 2), which does not count that one end is higher.
    """

    over_mean: float
    over_line: float


def barrier(at: np.ndarray, values: np.ndarray) -> Barrier:
    """The barrier of a curve with ``values`` at the positions ``at``, both [n], n >= 2, from 0 to 1 in order."""
    first, last = values[0], values[-1]
    line = (1 - at) * first + at * last
    return Barrier(float(values.max() - (first + last) / 2), float(np.max((values - line)[1:-1], initial=0.0)))


class Apart(NamedTuple):
    """l2 distance of two parameter vectors, and the cosine of the angle between them (from the origin)."""

    l2: float
    cosine: float


def apart(one: Weights, other: Weights, parameters: Iterable[str]) -> Apart:
    """Distance and cosine, in float64, over the tensors named ``parameters``, as one vector; 0 for a zero vector."""
    distance, product, first, second = torch.zeros(4, dtype=torch.float64).unbind()
    for name in parameters:
        a, b = (weights[name].double().flatten().cpu() for weights in (one, other))
        distance, product = distance + (a - b).square().sum(), product + a @ b
        first, second = first + a @ a, second + b @ b
    norms = float((first * second).sqrt())
    return Apart(float(distance.sqrt()), float(product) / norms if norms else 0.0)
