"""The plane of weights through three networks: its coordinates, norms, and the order in which a grid is computed.

A point (a, b), in affine coordinates, is origin + a (x - origin) + b (y - origin). All that a picture needs beside the
values there follows from the Gram matrix [3, 3] of origin, x - origin and y - origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rt_scale.spec.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
"""The affine coordinates of origin, x and y."""
NAMES = ("origin", "x", "y")
CENTRES = ("origin", "mean", "least_norm")
_APART = 1e-6
"""Least distance of two networks, and of y from the line through origin and x, as a share of origin's norm: rounding to
float32 alone moves weights by 1e-7 of it."""


def axis(low: float, high: float, points: int) -> np.ndarray:
    """``points`` equally spaced coordinates, float64; every second one is, bit for bit, one of (points + 1) / 2."""
    return low + (high - low) * (np.arange(points) / (points - 1))


def shares(a: float, *b: float) -> tuple[float, ...]:
    """The shares, which add up to 1, of origin, x and y in the weights of a point: exactly 1 and 0 at these three.

    Without ``b``: of origin and x, of a point of a line.
    """
    return 1.0 - a - sum(b), a, *b


def gram(networks: Sequence[Mapping[str, Tensor]], parameters: Iterable[str]) -> np.ndarray:
    """The Gram matrix, float64 [3, 3], over the tensors named ``parameters`` of origin, x and y, as vectors.

    Of a line, without y, [2, 2].
    """
    total = np.zeros((len(networks), len(networks)))
    for name in parameters:
        origin, *others = (weights[name].detach().cpu().double().flatten() for weights in networks)
        vectors = (origin, *(other - origin for other in others))
        total += np.array([[float(one @ other) for other in vectors] for one in vectors])
    return total


def refuse_degenerate(gram: np.ndarray) -> None:
    """Raise InputError if two of the networks are equal, or all three lie on one line."""
    least = _APART**2 * gram[0, 0]
    squares = {"origin and x": gram[1, 1]}
    if len(gram) == 3:
        squares |= {"origin and y": gram[2, 2], "x and y": gram[1, 1] + gram[2, 2] - 2 * gram[1, 2]}
    if equal := [pair for pair, square in squares.items() if square <= least]:
        raise InputError(
            f"{equal[0]} have equal weights: a plane needs three different networks, a line two. A student that did "
            "not move is its start; take another run, or another of its networks."
        )
    if len(gram) == 3 and height_square(gram) <= least:
        raise InputError(
            "origin, x and y lie on one line and span no plane. Take another network for one of them, e.g. of a run "
            "with other seeds."
        )


def height_square(gram: np.ndarray) -> float:
    """The squared distance of y from the line through origin and x."""
    return float(gram[2, 2] - gram[1, 2] ** 2 / gram[1, 1])


def norms(gram: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The l2 norms [...] of the weights at the points [..., axes], in affine coordinates."""
    vectors = np.concatenate([np.ones((*points.shape[:-1], 1)), points], axis=-1)
    return np.asarray(np.sqrt(np.maximum(np.einsum("...i,ij,...j", vectors, gram, vectors), 0.0)))


def centre(gram: np.ndarray, of: str = "least_norm") -> np.ndarray:
    """A point [2], in affine coordinates: ``origin``, the ``mean`` of the three, or the plane's point of least norm."""
    if of == "origin":
        return np.zeros(2)
    if of == "mean":
        return np.full(2, 1 / 3)
    if of == "least_norm":
        return np.asarray(np.linalg.solve(gram[1:, 1:], -gram[1:, 0]))
    raise unknown_name("centre of a plane", of, CENTRES)


def orthonormal(gram: np.ndarray, points: np.ndarray, of: str = "least_norm") -> np.ndarray:
    """Orthonormal coordinates [..., 2] of the points [..., 2] given in affine ones, in units of the l2 norm of weights.

    The first axis goes from origin to x, the second towards y (Gram-Schmidt); (0, 0) is the ``centre`` of that name.
    """
    return np.asarray((points - centre(gram, of)) @ np.linalg.cholesky(gram[1:, 1:]))


def coarse_first(width: int, height: int = 1) -> np.ndarray:
    """All points (row, column) of a grid, int64 [width * height, 2]: coarse everywhere, then ever finer.

    Points whose row and column are multiples of 2^k come before all others, for every k: they are sorted by the bits of
    row and column, the lowest first.
    """
    rows, columns = (each.ravel() for each in np.mgrid[:height, :width])
    key = np.zeros(len(rows), dtype=np.int64)
    for bit in range(max(width - 1, height - 1).bit_length()):
        key = key << 2 | (rows >> bit & 1) << 1 | columns >> bit & 1
    return np.stack([rows, columns], axis=1)[np.argsort(key, kind="stable")]
