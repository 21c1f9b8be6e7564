"""Cross entropy in tiles of columns, without all logits in memory at once.

At m = 65,536 a step is bound by memory traffic: logits [B, m], probabilities and gradients are larger than any cache,
but tiles [B, c] of columns fit. A softmax over all columns is that over a tile's columns times exp(n_c - n), with
n_c = log sum_{j in c} exp(z_j) and n = log sum_c exp(n_c): a tile needs one number per row from the others. The
backward pass takes the two softmaxes of each tile, saved as two tensors of [B, m] numbers, and adds their difference
to the gradients of both factors tile by tile.

Shapes: B rows, m outputs, k features, c columns of a tile, C tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rt_scale.losses.distances import Distance
from rt_scale.losses.kl import from_excess, mean_and_excess
from rt_scale.models.projector import Outputs
from rt_scale.spec.errors import unknown_name

TILE, TILE_A_THREAD, GPU_TILE = 1 << 20, 1 << 18, 1 << 22
"""Elements of a tile: 4 MB of float32 on a CPU, or 1 MB per thread if that is more; 16 MB on a GPU.

Smaller tiles fit in faster caches, but each tile starts about twenty parallel regions or kernels.
"""
NARROWEST = 256
"""Least columns of a tile: narrower matrix products cost more than the cache saves."""


def tile_columns(rows: int, device: torch.device) -> int:
    """Columns of a tile of ``rows`` rows; depends only on the device and the number of threads."""
    elements = max(TILE, TILE_A_THREAD * torch.get_num_threads()) if device.type == "cpu" else GPU_TILE
    return max(NARROWEST, elements // rows // 64 * 64)


def wide_distance(
    name: str, student: Outputs, teacher: Outputs, *, product: torch.dtype | None = None, columns: int | None = None
) -> Distance:
    """The result of ``distances.distance`` for one view, from factors of the logits.

    Args:
        name: cross_entropy or kl.
        student: its features and weight get gradients.
        teacher: with as many rows and outputs.
        product: dtype of the matrix products, so of logits; None: that of the student's features. Everything after
            logits is at least float32.
        columns: c of a tile; None: ``tile_columns``.

    Raises:
        InputError: another name.
        ValueError: the two differ in rows or outputs.
    """
    if name not in ("cross_entropy", "kl"):
        raise unknown_name("objective by features and weights", name, ("cross_entropy", "kl"))
    (features, weight, *_), (taught, directions, *_) = student, teacher
    if (len(features), len(weight)) != (len(taught), len(directions)):
        raise ValueError(
            f"student outputs {len(features)} x {len(weight)} and teacher outputs {len(taught)} x {len(directions)} "
            "must have the same rows and outputs"
        )
    cross, kl, *entropies = _WideCrossEntropy.apply(
        features, weight, student, teacher, product or features.dtype, columns
    )
    return Distance(kl if name == "kl" else cross, kl.detach(), *entropies)


def by_tiles(
    student: Outputs, teacher: Outputs, product: torch.dtype, columns: int | None = None
) -> tuple[Tensor, Sequence[Tensor]]:
    """Compare two networks' outputs tile by tile; arguments as of ``wide_distance``.

    Returns:
        Cross entropy, KL, teacher's and student's entropy of every row, [4, B] in nats; the arguments of
        ``_differences``.
    """
    features, outputs = student.features, len(student.weight)
    rows = len(features)
    columns = min(columns or tile_columns(rows, features.device), outputs)
    # All memory is allocated before the first tile. Blocks freed between tiles would be too small for the next tile, as
    # glibc requests some bytes more than it uses: at m = 65,536 a step would take 411 MB instead of 244.
    take = functools.partial(features.new_empty, dtype=torch.promote_types(product, torch.float32))
    logits, others, scratch = (take(rows * columns) for _ in range(3))
    learned, taught = (_TiledSoftmax(rows, take(rows * outputs), scratch) for _ in range(2))
    overlaps, own, apart = [], [], []
    for start in range(0, outputs, columns):
        part = slice(start, min(start + columns, outputs))
        tile, other, spare = (_tile(each, rows, 0, part.stop - start) for each in (logits, others, scratch))
        target = taught.add(_put_logits(other, teacher, part, product))
        predictions = learned.add(_put_logits(tile, student, part, product))
        overlaps.append(learned.mean(target, tile))
        own.append(learned.mean(predictions, tile))
        apart.append(mean_and_excess(tile.sub_(other), target, other, spare))
    (total, shares), (teacher_total, teacher_shares) = learned.over_all(), taught.over_all()
    # Each is n - <p, z>; the mean of the teacher's logits is that of the student's less that of their difference.
    cross = total - _over_tiles(teacher_shares, overlaps)
    taught_means = [overlap - mean for overlap, (mean, _) in zip(overlaps, apart, strict=True)]
    teacher_entropy = teacher_total - _over_tiles(teacher_shares, taught_means)
    student_entropy = total - _over_tiles(shares, own)
    kl = _kl_over_tiles(teacher_shares, total - teacher_total, apart)
    values = torch.stack([cross, kl, teacher_entropy, student_entropy])
    return values, [shares, teacher_shares, *learned.probabilities, *taught.probabilities]


class _TiledSoftmax:
    """One network's softmax over all columns, from the ``probabilities`` [B, c] over the columns of each tile.

    These are consecutive in ``memory`` [B m]. Two softmaxes may share ``scratch`` [B c], which holds the products of
    one tile.
    """

    def __init__(self, rows: int, memory: Tensor, scratch: Tensor) -> None:
        self.probabilities: list[Tensor] = []
        self._rows, self._memory, self._scratch, self._columns = rows, memory, scratch, 0
        self._largest: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor) -> Tensor:
        """The softmax of one more tile of logits [B, c]."""
        probabilities = _tile(self._memory, self._rows, self._columns, logits.shape[1])
        torch.softmax(logits, dim=1, out=probabilities)
        self._columns += logits.shape[1]
        self.probabilities.append(probabilities)
        self._largest.append((logits.amax(dim=1), probabilities.amax(dim=1)))
        return probabilities

    def mean(self, probabilities: Tensor, logits: Tensor) -> Tensor:
        """The mean [B] of a tile's logits [B, c] under its ``probabilities`` [B, c]."""
        products = _tile(self._scratch, self._rows, 0, logits.shape[1])
        return torch.mul(probabilities, logits, out=products).sum(dim=1)

    def over_all(self) -> tuple[Tensor, Tensor]:
        """log sum_j exp(z_j) over all columns, [B], and each tile's share of that sum, [B, C]."""
        logits, probabilities = (torch.stack(each, dim=1) for each in zip(*self._largest, strict=True))
        normalisers = logits - probabilities.log()  # as ``softmax_rows``, for all tiles at once
        total = torch.logsumexp(normalisers, dim=1)
        return total, (normalisers - total[:, None]).exp_()


def _over_tiles(shares: Tensor, values: list[Tensor]) -> Tensor:
    """The mean [B] over all columns, from the means [B] and shares [B, C] of the tiles."""
    return (shares * torch.stack(values, dim=1)).sum(dim=1)


def _kl_over_tiles(shares: Tensor, normalisers: Tensor, tiles: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """KL [B], from ``mean_and_excess`` [B] of the tiles, whose shares are [B, C], and the normalisers' difference [B].

    With d_c the mean of tile c less that over all, and e_c its excess, the mean of exp(d') there is exp(d_c) (1 + e_c).
    """
    means, excesses = (torch.stack(each, dim=1).double() for each in zip(*tiles, strict=True))
    weights = shares.double() / shares.double().sum(dim=1, keepdim=True)
    mean = (weights * means).sum(dim=1)
    means -= mean[:, None]
    excess = (weights * (means.expm1() - means + means.exp() * excesses)).sum(dim=1)
    return from_excess(excess, normalisers - mean).to(shares.dtype)


def _tile(memory: Tensor, rows: int, start: int, columns: int) -> Tensor:
    """The tile [B, c] that starts at column ``start``, in memory [B m] of consecutive tiles."""
    return memory[rows * start : rows * (start + columns)].view(rows, columns)


def _put_logits(tile: Tensor, outputs: Outputs, part: slice, product: torch.dtype) -> Tensor:
    """``tile`` [B, c], filled with the logits of the columns ``part``; ``product`` is the dtype of the product."""
    features, weight, unit, shift = outputs
    factors = features.to(product), _Rows(weight[part], unit).acting.to(product).T
    if tile.dtype == product:
        torch.mm(*factors, out=tile)
    else:
        tile.copy_(torch.mm(*factors))
    return tile if shift is None else tile.add_(shift[part])


class _WideCrossEntropy(torch.autograd.Function):
    """Means over rows of cross entropy and KL (with one gradient of both factors), teacher's and student's entropy."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        student: Outputs,
        teacher: Outputs,
        product: torch.dtype,
        columns: int | None,
    ) -> tuple[Tensor, ...]:
        values, kept = by_tiles(student, teacher, product, columns)
        ctx.save_for_backward(features, weight, *kept)
        ctx.unit, ctx.product = student.unit, product
        cross, kl, *entropies = values.mean(dim=1).unbind()
        ctx.mark_non_differentiable(*entropies)
        ctx.set_materialize_grads(False)  # no zeros for the output that is not the loss
        return cross, kl, *entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        features, weight, *kept = ctx.saved_tensors
        # Cross entropy and KL, of which one is the loss, have the same gradient.
        slope = grads[1] if grads[0] is None else grads[0]
        if slope is None:
            return None, None, None, None, None, None
        # The difference of softmaxes is d loss / d logits but for this, which is cheaper to bring in at the factors.
        scale = slope / len(features)
        scaled = (features * scale).to(ctx.product)
        to_features = torch.zeros_like(features, dtype=torch.promote_types(ctx.product, torch.float32))
        to_weight = torch.empty_like(weight)
        for part, difference in _differences(*kept):
            rows = _Rows(weight[part], ctx.unit)
            difference = difference.to(ctx.product)
            to_features += difference @ rows.acting.to(ctx.product)
            to_weight[part] = rows.backward(difference.T @ scaled)
        return to_features.mul_(scale).to(features.dtype), to_weight, None, None, None, None


def _differences(
    student_shares: Tensor, teacher_shares: Tensor, *probabilities: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """The columns of each tile, and the student's minus the teacher's softmax [B, c] over all columns there.

    ``probabilities`` are the softmaxes [B, c] over each tile, first the student's, then the teacher's. The shares
    [B, C] are each tile's in the sum of exponentials.
    """
    tiles, start = student_shares.shape[1], 0
    for tile, (ours, theirs) in enumerate(zip(probabilities[:tiles], probabilities[tiles:], strict=True)):
        # Both products are rounded before the subtraction, so that equal ones give exactly 0.
        difference = ours * student_shares[:, tile, None]
        yield slice(start, start + ours.shape[1]), difference.sub_(theirs * teacher_shares[:, tile, None])
        start += ours.shape[1]


class _Rows:
    """Rows of a weight [c, k]; ``acting`` are those that make logits, normalised if ``unit``."""

    def __init__(self, weight: Tensor, unit: bool) -> None:
        self.weight, self.unit = weight, unit
        self.acting = weight
        if unit:
            self.ones = weight.new_ones(len(weight), 1)
            # The same kernel as ``unit_rows``: a student equal to its teacher must have a gradient of exactly 0.
            self.acting, self.norms = torch._weight_norm_interface(weight, self.ones, 0)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient [c, k] of the weight, from the gradient of ``acting``."""
        gradient = gradient.to(self.weight.dtype)
        if not self.unit:
            return gradient
        backward = torch.ops.aten._weight_norm_interface_backward
        to_weight: Tensor = backward(gradient, self.weight, self.ones, self.norms, 0)[0]
        return to_weight
