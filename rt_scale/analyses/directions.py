"""Directions in parameter space besides those to other networks: random ones, and those of a path (Li et al. 2018).

Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets" (arXiv:1712.09913), sections 4 and 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from rt_scale.analyses.statistics import combined
from rt_scale.models.networks import Weights
from rt_scale.spec.errors import InputError, counted

_PIECE = 1 << 20
"""Numbers of a parameter that are compared at once, to bound memory."""


def filter_normalised(origin: Weights, parameters: Iterable[str], generator: torch.Generator) -> Weights:
    """``origin`` plus a Gaussian direction whose filters have the norms of origin's.

    A filter is all that makes one output: ``weight[i]`` of a convolution or a linear layer. Biases, and scales and
    shifts of norms, stay as they are, and so do statistics. So the direction does not depend on the scale of a filter,
    which a norm or the next layer may undo.

    Args:
        parameters: names of the parameters, in the order in which they are drawn.
        generator: on the CPU.
    """
    found = dict(origin)
    for name in parameters:
        weight = origin[name]
        if weight.dim() > 1:
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            norm, length = weight.double().cpu().flatten(1).norm(dim=1), drawn.flatten(1).norm(dim=1)
            scale = (norm / length).view(-1, *[1] * (weight.dim() - 1))
            found[name] = weight + (scale * drawn).to(weight)
    return found


def principal(origin: Weights, path: Sequence[Weights], parameters: Sequence[str], count: int) -> list[Weights]:
    """``origin`` plus the first ``count`` principal components of the networks of ``path`` less origin, uncentred.

    A component is as long as the furthest network of the path along it, and points there: that one is at 1. Statistics
    of norms are combined as parameters are.

    Raises:
        InputError: the path has fewer components.
    """
    values, vectors = np.linalg.eigh(_products(origin, path, parameters))
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > max(1e-10 * values[0], 0.0)).sum())
    if rank < count:
        raise InputError(
            f"The networks of path less origin span {counted(rank, 'dimension')}, and {count} "
            "were asked for: name more networks that differ from origin, or give points for fewer axes."
        )
    found: list[Weights] = []
    for value, vector in zip(values[:count], vectors.T[:count], strict=True):
        along = np.sqrt(value) * vector  # of the networks, on the unit component
        furthest = along[np.abs(along).argmax()]
        shares = vector / np.sqrt(value) * furthest
        found.append(combined([origin, *path], [1 - float(shares.sum()), *map(float, shares)]))
    return found


class Places(NamedTuple):
    """Where networks are, seen from a line or plane.

    Attributes:
        at: [n, axes], affine coordinates of the nearest points on it.
        off: [n], l2 distances to it.
        length: [n], l2 length of the way along the networks up to each, from the first.
    """

    at: np.ndarray
    off: np.ndarray
    length: np.ndarray


def places(networks: Sequence[Weights], path: Sequence[Weights], parameters: Sequence[str]) -> Places:
    """The places of the networks of ``path``, seen from the line or plane through ``networks``, origin first."""
    origin, *others = networks
    count = len(others)
    products = _products(origin, [*others, *path], parameters)
    axes, across, own = products[:count, :count], products[count:, :count], np.diag(products)[count:]
    at = np.linalg.solve(axes, across.T).T
    off = np.sqrt(np.maximum(own - (at * across).sum(1), 0.0))
    within = products[count:, count:]
    steps = own[1:] + own[:-1] - 2 * np.diag(within, 1)
    return Places(at, off, np.concatenate([[0.0], np.cumsum(np.sqrt(np.maximum(steps, 0.0)))]))


def _products(origin: Weights, networks: Sequence[Weights], parameters: Iterable[str]) -> np.ndarray:
    """The inner products [n, n] of the networks less origin, in float64."""
    total = np.zeros((len(networks), len(networks)))
    for name in parameters:
        flat = (torch.split(each[name].flatten(), _PIECE) for each in (origin, *networks))
        for pieces in zip(*flat, strict=True):
            start, *others = (piece.double().cpu() for piece in pieces)
            rows = torch.stack(others) - start
            total += (rows @ rows.T).numpy()
    return total
