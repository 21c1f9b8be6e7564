"""Centring, scaling and second moments of embeddings: what probes in closed form and statistics share."""

from __future__ import annotations

import torch
from torch import Tensor

from rt_scale.spec.stopping import Heed, go_on

_TILE_ELEMENTS = 1 << 22


def centre_and_scale(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the training mean, and divide by one number so that the mean training variance is 1.

    The geometry of the embeddings stays: one scale for all dimensions, unlike ``standardise``. A
    penalty on the weights then means the same for embeddings of every magnitude, of which random
    networks have many. Embeddings that are all equal are divided by 1.

    Args:
        train: float [N, D].
        test: float [M, D].

    Returns:
        Both, centred and scaled; the arguments are not changed.
    """
    mean = train.mean(dim=0)
    centred = train - mean
    scale = centred.square().mean().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return centred.div_(scale), (test - mean).div_(scale)


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] over the rows of x [N, D], by which dimensions are standardised.

    The standard deviation is the population's (divided by N), and 1 for dimensions that are constant. In two passes,
    corrected for the rounding of the mean: as exact as ``torch.var_mean``, which takes a CPU four times as long.
    """
    mean = x.mean(dim=0)
    centred = x - mean
    drift = centred.mean(dim=0)
    variance = centred.square_().mean(dim=0).sub_(drift.square()).clamp_min_(0.0)
    # Not ``variance == 0``: the mean of equal numbers need not be that number to the last bit.
    constant = (x == x[0]).all(dim=0)
    deviation = variance.sqrt_().masked_fill_(constant, 1.0)
    # Variances so small that they underflow are constants too.
    return mean, deviation.masked_fill_(deviation == 0, 1.0)


def gram(a: Tensor, b: Tensor, heed: Heed = go_on) -> Tensor:
    """The matrix a^T b [D, E] of a [N, D] and b [N, E], summed in float64 tile by tile.

    In float32 the rounding of large directions would drown small ones, which ranks, inverses and
    alignments are about. ``heed`` is called before every tile.
    """
    total = torch.zeros((a.shape[1], b.shape[1]), dtype=torch.float64, device=a.device)
    rows = max(1, _TILE_ELEMENTS // max(a.shape[1], b.shape[1], 1))
    for tile_a, tile_b in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
        heed()
        total.addmm_(tile_a.double().T, tile_b.double())
    return total


def smaller_gram(x: Tensor, heed: Heed = go_on) -> Tensor:
    """x^T x or x x^T, whichever is smaller, float64: both have the squared singular values of x [N, D]."""
    return gram(x, x, heed) if x.shape[1] <= x.shape[0] else gram(x.T, x.T, heed)
