"""Statistics of embeddings: moments, rank, spread, and agreement of two networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rt_scale.spec.metrics import OF_LAYERS
from rt_scale.spec.stopping import StopCheck, no_check

_TILE_ELEMENTS = 1 << 22


def centre_and_scale(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of train [N, D] and test [M, D] less the training mean, divided by the root of the mean training variance.

    One scale for all dimensions, unlike ``standardise``: a penalty on the weights then does not depend on the magnitude
    of embeddings, which varies much between random networks. Embeddings that are all equal are divided by 1.
    """
    mean = train.mean(dim=0)
    centred = train - mean
    scale = centred.square().mean().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return centred.div_(scale), (test - mean).div_(scale)


def mean_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [D] (divided by N; 1 for constant dimensions) over the rows of x [N, D].

    Two passes, corrected for the rounding of the mean, are as exact as ``torch.var_mean`` and 4 times as fast on a CPU.
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


def gram(a: Tensor, b: Tensor, check_stop: StopCheck = no_check) -> Tensor:
    """The matrix a^T b [D, E] of a [N, D] and b [N, E], summed in float64.

    In float32 the rounding of large directions would exceed small ones, on which ranks, inverses and alignments depend.
    """
    total = torch.zeros((a.shape[1], b.shape[1]), dtype=torch.float64, device=a.device)
    rows = max(1, _TILE_ELEMENTS // max(a.shape[1], b.shape[1], 1))
    for tile_a, tile_b in zip(torch.split(a, rows), torch.split(b, rows), strict=True):
        check_stop()
        total.addmm_(tile_a.double().T, tile_b.double())
    return total


def smaller_gram(x: Tensor, check_stop: StopCheck = no_check) -> Tensor:
    """The smaller of x^T x and x x^T, float64: both have the squared singular values of x [N, D]."""
    return gram(x, x, check_stop) if x.shape[1] <= x.shape[0] else gram(x.T, x.T, check_stop)


@torch.no_grad()
def feature_statistics(x: Tensor, check_stop: StopCheck = no_check) -> dict[str, float]:
    """Statistics of embeddings, float [N, D].

    ``effective_rank``: exp of the entropy of the singular values of the centred embeddings divided by their sum (Roy
    and Vetterli 2007), 1 to min(N, D). ``participation_ratio``: (sum l)^2 / sum l^2 of the eigenvalues l of their
    covariance, 1 to min(N, D). Both are 0 for embeddings that are all equal. ``dead_units``: the share of dimensions
    that are exactly 0 for every image. ``std``: the mean over dimensions of the standard deviation over images. All are
    NaN if an embedding is not finite.
    """
    names = ("effective_rank", "participation_ratio", "dead_units", "std")
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    if not torch.isfinite(deviation).all():
        return dict.fromkeys(names, math.nan)
    eigenvalues = torch.linalg.eigvalsh(smaller_gram(x - mean, check_stop)).clamp_(min=0.0)
    dead = (x == 0).all(dim=0).double().mean()
    values = (_effective_rank(eigenvalues.sqrt()), _participation_ratio(eigenvalues), dead, deviation.double().mean())
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


FLAT = 1e-14
"""Eigenvalues below this share of the largest are rounding of sums in float64."""


@torch.no_grad()
def layer_statistics(x: Tensor, y: Tensor, check_stop: StopCheck = no_check) -> dict[str, float]:
    """How a layer tells N >= 2 images apart, from its outputs, float [N, D], and their classes, int64 [N].

    ``cosine``: the mean over pairs of different images of the cosine of their outputs, not centred, -1 / (N - 1) to 1;
    an output of length 0 counts as 0. ``effective_rank``: as of ``feature_statistics``. ``log_condition``: log10 of the
    largest to the smallest of the min(N - 1, V) eigenvalues of the covariance, of the V dimensions that vary, at most
    14, which outputs that are all equal have, too. ``separability``: the share of the variance, summed over dimensions,
    that is between the means of classes, 0 to 1; of labels at random (classes - 1) / (N - 1). All are NaN if an output
    is not finite.
    """
    if not torch.isfinite(x).all():
        return dict.fromkeys(OF_LAYERS, math.nan)
    x = x.double()
    unit = functional.normalize(x, dim=1, eps=1e-300)
    pairs = len(x) * (len(x) - 1)
    cosine = (unit.sum(dim=0).square().sum() - unit.square().sum()) / pairs
    varying = ~(x == x[0]).all(dim=0)
    centred = x[:, varying] - x[:, varying].mean(dim=0)
    rank = min(len(x) - 1, centred.shape[1])
    if not rank:
        return dict(zip(OF_LAYERS, (cosine.item(), 0.0, -math.log10(FLAT), 0.0), strict=True))
    eigenvalues = torch.linalg.eigvalsh(smaller_gram(centred, check_stop)).clamp_(min=0.0)  # ascending
    flat = (eigenvalues[-rank] / eigenvalues[-1]).clamp(min=FLAT)
    classes = functional.one_hot(y).double()
    means = (classes.T @ centred) / classes.sum(dim=0).clamp(min=1).sqrt()[:, None]  # times the root of their images
    between = means.square().sum() / centred.square().sum()
    values = (cosine, _effective_rank(eigenvalues.sqrt()), -flat.log10(), between)
    return dict(zip(OF_LAYERS, torch.stack(values).tolist(), strict=True))


@torch.no_grad()
def agreement(x: Tensor, y: Tensor, check_stop: StopCheck = no_check) -> dict[str, float]:
    """The similarity of two networks' embeddings, float [N, D] and [N, E], of the same images in the same order.

    ``cka``: linear centred kernel alignment |Y^T X|^2 / (|X^T X| |Y^T Y|) of centred embeddings in Frobenius norms
    (Kornblith et al. 2019, equation 3), 0 to 1; 0 if one of them is constant. ``cosine``, only if D = E: the mean over
    images of the cosine between both embeddings, not centred, -1 to 1; an embedding of length 0 counts as 0.
    """
    centred_x, centred_y = x - x.mean(dim=0), y - y.mean(dim=0)
    norms = smaller_gram(centred_x, check_stop).norm() * smaller_gram(centred_y, check_stop).norm()
    cka = _cross(centred_x, centred_y, check_stop) / torch.where(norms == 0, 1.0, norms)
    values = {"cka": cka.item()}
    if x.shape[1] == y.shape[1]:
        # Not torch's cosine_similarity: embeddings of deep random networks can be shorter than its eps.
        directions = (functional.normalize(each.double(), dim=1, eps=1e-300) for each in (x, y))
        values["cosine"] = torch.linalg.vecdot(*directions).mean().item()
    return values


def _cross(x: Tensor, y: Tensor, check_stop: StopCheck) -> Tensor:
    """|y^T x|^2 in the Frobenius norm, over dimensions or as <x x^T, y y^T> over images, whichever is smaller."""
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return gram(x, y, check_stop).square().sum()
    return (gram(x.T, x.T, check_stop) * gram(y.T, y.T, check_stop)).sum()


def _effective_rank(singular_values: Tensor) -> Tensor:
    total = singular_values.sum()
    shares = singular_values / torch.where(total == 0, 1.0, total)
    return torch.where(total == 0, 0.0, torch.special.entr(shares).sum().exp())


def _participation_ratio(eigenvalues: Tensor) -> Tensor:
    squares = eigenvalues.square().sum()
    return torch.where(squares == 0, 0.0, eigenvalues.sum().square() / torch.where(squares == 0, 1.0, squares))
