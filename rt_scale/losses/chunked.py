"""Cross entropy between outputs that are never all there: made, compared and forgotten a tile at a time.

At m = 65,536 the logits [B, m] of a step, its probabilities and its gradients are what moves through memory, one
after the other, each larger than any cache. Here columns are cut into tiles [B, c] that fit in it. A softmax over
all columns is that over a tile's columns times exp(n_c - n), with n_c = log sum_{j in c} exp(z_j) and
n = log sum_c exp(n_c): a tile needs one number a row from the others. Of each tile the two softmaxes are kept for
the backward pass, two tensors of [B, m] in all; their difference is formed there tile by tile, on the way into the
gradients of both factors.

Shapes: B rows, m outputs, k features, c columns of a tile, C tiles.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rt_scale.losses.distances import Distance
from rt_scale.models.projector import Outputs
from rt_scale.spec.errors import unknown_name

TILE, TILE_A_THREAD, GPU_TILE = 1 << 20, 1 << 18, 1 << 22
"""Elements of a tile: 4 MB of float32 on a CPU, or 1 MB a thread where that is more; on a GPU 16 MB.

Smaller ones fit in nearer caches, but each begins some twenty parallel regions, or kernels.
"""
NARROWEST = 256
"""Columns that a tile has at least: products of narrower matrices cost more than the cache saves."""


def tile_columns(rows: int, device: torch.device) -> int:
    """Columns of a tile of ``rows`` rows, by the device and the number of threads alone."""
    elements = max(TILE, TILE_A_THREAD * torch.get_num_threads()) if device.type == "cpu" else GPU_TILE
    return max(NARROWEST, elements // rows // 64 * 64)


class Side(NamedTuple):
    """One network's outputs as they are compared: logits are features weight^T + shift.

    Attributes:
        outputs: features [B, k] and weight [m, k].
        shift: [m] without gradient; None: 0.
    """

    outputs: Outputs
    shift: Tensor | None = None


def wide_distance(
    name: str, student: Side, teacher: Side, *, product: torch.dtype | None = None, columns: int | None = None
) -> Distance:
    """What ``distances.distance`` says of one view, of outputs that are not made yet.

    Args:
        name: cross_entropy or kl.
        student: gradients reach its features and its weight.
        teacher: of as many rows and outputs.
        product: dtype that matrices are multiplied in, and so that of logits; None: that of the student's features.
            What is made of logits is at least float32.
        columns: c of a tile; None: ``tile_columns``.

    Raises:
        InputError: another name.
        ValueError: where the two differ in rows or outputs.
    """
    if name not in ("cross_entropy", "kl"):
        raise unknown_name("objective by features and weights", name, ("cross_entropy", "kl"))
    (features, weight, _), (taught, directions, _) = student.outputs, teacher.outputs
    if (len(features), len(weight)) != (len(taught), len(directions)):
        raise ValueError(
            f"student outputs {len(features)} x {len(weight)} and teacher outputs {len(taught)} x {len(directions)} "
            "must be the same rows and outputs"
        )
    cross, *entropies = _WideCrossEntropy.apply(features, weight, student, teacher, product or features.dtype, columns)
    kl = cross - entropies[0]
    return Distance(kl if name == "kl" else cross, kl.detach(), *entropies)


def by_tiles(
    student: Side, teacher: Side, product: torch.dtype, columns: int | None = None
) -> tuple[Tensor, Sequence[Tensor]]:
    """Compare two sides a tile at a time; arguments as of ``wide_distance``.

    Returns:
        Cross entropy, teacher's and student's entropy of every row, [3, B] in nats; what ``_differences`` takes.
    """
    features, outputs = student.outputs.features, len(student.outputs.weight)
    rows = len(features)
    columns = min(columns or tile_columns(rows, features.device), outputs)
    # All memory is taken before the first tile. What is freed between tiles that stay is too small for the next one,
    # as glibc asks for some bytes more than it uses in the end: at m = 65,536 a step took 411 MB so, and takes 244.
    take = functools.partial(features.new_empty, dtype=torch.promote_types(product, torch.float32))
    logits, scratch = take(rows * columns), take(rows * columns)
    learned, taught = (_TiledSoftmax(rows, take(rows * outputs), scratch) for _ in range(2))
    overlaps = []
    for start in range(0, outputs, columns):
        part = slice(start, min(start + columns, outputs))
        tile = _tile(logits, rows, 0, part.stop - start)
        target = taught.add(_put_logits(tile, teacher, part, product))
        learned.add(_put_logits(tile, student, part, product))
        overlaps.append(learned.mean(target, tile))
    (total, shares), (teacher_total, teacher_shares) = learned.over_all(), taught.over_all()
    # Each is n - <p, z>.
    cross = total - _over_tiles(teacher_shares, overlaps)
    teacher_entropy = teacher_total - _over_tiles(teacher_shares, taught.means)
    student_entropy = total - _over_tiles(shares, learned.means)
    values = torch.stack([cross, teacher_entropy, student_entropy])
    return values, [shares, teacher_shares, *learned.probabilities, *taught.probabilities]


class _TiledSoftmax:
    """One network's softmax over all columns, from ``probabilities`` [B, c] over the columns of each tile.

    These lie one after the other in ``memory`` [B m]; ``means`` [B] are those of each tile's logits under them.
    ``scratch`` [B c], for products of one tile, may be shared.
    """

    def __init__(self, rows: int, memory: Tensor, scratch: Tensor) -> None:
        self.probabilities: list[Tensor] = []
        self.means: list[Tensor] = []
        self._rows, self._memory, self._scratch, self._columns = rows, memory, scratch, 0
        self._largest: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor) -> Tensor:
        """The softmax of one more tile of logits [B, c]."""
        probabilities = _tile(self._memory, self._rows, self._columns, logits.shape[1])
        torch.softmax(logits, dim=1, out=probabilities)
        self._columns += logits.shape[1]
        self.probabilities.append(probabilities)
        self.means.append(self.mean(probabilities, logits))
        self._largest.append((logits.amax(dim=1), probabilities.amax(dim=1)))
        return probabilities

    def mean(self, probabilities: Tensor, logits: Tensor) -> Tensor:
        """The mean [B] of a tile's logits [B, c] under these probabilities [B, c] of it."""
        products = _tile(self._scratch, self._rows, 0, logits.shape[1])
        return torch.mul(probabilities, logits, out=products).sum(dim=1)

    def over_all(self) -> tuple[Tensor, Tensor]:
        """log sum_j exp(z_j) over all columns, [B], and how much of that sum is each tile's, [B, C]."""
        logits, probabilities = (torch.stack(each, dim=1) for each in zip(*self._largest, strict=True))
        normalisers = logits - probabilities.log()  # as ``log_normaliser``, of all tiles in one go
        total = torch.logsumexp(normalisers, dim=1)
        return total, (normalisers - total[:, None]).exp_()


def _over_tiles(shares: Tensor, values: list[Tensor]) -> Tensor:
    """The mean [B] over all columns, from those [B] of C tiles and their shares [B, C]."""
    return (shares * torch.stack(values, dim=1)).sum(dim=1)


def _tile(memory: Tensor, rows: int, start: int, columns: int) -> Tensor:
    """The tile [B, c] that begins at a column of memory [B m] in which tiles lie one after the other."""
    return memory[rows * start : rows * (start + columns)].view(rows, columns)


def _put_logits(tile: Tensor, side: Side, part: slice, product: torch.dtype) -> Tensor:
    """``tile`` [B, c] with the logits of those columns in it, multiplied in ``product``."""
    features, weight, unit = side.outputs
    factors = features.to(product), _Rows(weight[part], unit).acting.to(product).T
    if tile.dtype == product:
        torch.mm(*factors, out=tile)
    else:
        tile.copy_(torch.mm(*factors))
    return tile if side.shift is None else tile.add_(side.shift[part])


class _WideCrossEntropy(torch.autograd.Function):
    """Cross entropy, teacher's and student's entropy, means over rows; the first has a gradient to both factors."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        student: Side,
        teacher: Side,
        product: torch.dtype,
        columns: int | None,
    ) -> tuple[Tensor, ...]:
        values, kept = by_tiles(student, teacher, product, columns)
        ctx.save_for_backward(features, weight, *kept)
        ctx.unit, ctx.product = student.outputs.unit, product
        cross, *entropies = values.mean(dim=1).unbind()
        ctx.mark_non_differentiable(*entropies)
        return cross, *entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, *kept = ctx.saved_tensors
        # The difference of softmaxes is d loss / d logits but for this, which is cheaper to bring in at the factors.
        scale = grads[0] / len(features)
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
    """Where each tile is, and the student's less the teacher's softmax [B, c] over all columns there.

    From the shares of the tiles [B, C] and the softmax over each alone [B, c], the student's before the teacher's.
    """
    tiles, start = student_shares.shape[1], 0
    for tile, (ours, theirs) in enumerate(zip(probabilities[:tiles], probabilities[tiles:], strict=True)):
        # Both products are rounded before they are subtracted, so that equal ones leave nothing.
        difference = ours * student_shares[:, tile, None]
        yield slice(start, start + ours.shape[1]), difference.sub_(theirs * teacher_shares[:, tile, None])
        start += ours.shape[1]


class _Rows:
    """Rows of a weight [c, k]: ``acting`` as logits are made with them, normalised or not, and the way back."""

    def __init__(self, weight: Tensor, unit: bool) -> None:
        self.weight, self.unit = weight, unit
        self.acting = weight
        if unit:
            self.ones = weight.new_ones(len(weight), 1)
            # The kernel of ``unit_rows``, to the bit: a student equal to its teacher has a gradient of 0.
            self.acting, self.norms = torch._weight_norm_interface(weight, self.ones, 0)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient [c, k] of the weight, from that of ``acting``."""
        gradient = gradient.to(self.weight.dtype)
        if not self.unit:
            return gradient
        backward = torch.ops.aten._weight_norm_interface_backward
        to_weight: Tensor = backward(gradient, self.weight, self.ones, self.norms, 0)[0]
        return to_weight
