"""KL divergence of two softmaxes, right to a few parts in ten thousand in float32 however small it is.

Cross entropy less entropy, each about log m, resolves 1e-6. With p the teacher's softmax, d the student's logits less
the teacher's and d' = d - E_p d,

    KL = log E_p exp(d) - E_p d = log1p(E_p[expm1(d') - d']),

whose terms are of second order in d', so that rounding of E_p d and of p hardly matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

BLOCK, GPU_BLOCK = 1 << 18, 1 << 22
"""Elements of the rows that are compared at a time, which stay in a cache."""


def kl_rows(student: Tensor, teacher: Tensor, probabilities: Tensor, normalisers: Tensor) -> Tensor:
    """KL(teacher || student) of every row, [B] in nats; exactly 0 for equal logits.

    Args:
        student, teacher: logits [B, m] of the same dtype.
        probabilities: softmax of ``teacher``.
        normalisers: [B], log sum_j exp(z_j) of the student's logits less that of the teacher's.
    """
    means, excesses = compared_rows(student, teacher, probabilities)
    return from_excess(excesses, normalisers - means)


def compared_rows(student: Tensor, teacher: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """``mean_and_excess`` of the differences of all rows, each [B]; arguments as of ``kl_rows``."""
    found = [mean_and_excess(*block) for block in _blocks(student, teacher, probabilities)]
    means, excesses = (joined(each) for each in zip(*found, strict=True))
    return means, excesses


def softmax_rows(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows of logits [B, m]: softmax [B, m], log sum_j exp(z_j) and entropy, [B] in nats."""
    probabilities, products = torch.empty_like(logits), _scratch(1, logits)[0]
    found = []
    for row, softmax in zip(*(torch.split(each, len(products)) for each in (logits, probabilities)), strict=True):
        torch.softmax(row, dim=1, out=softmax)
        # From the largest logit and its probability, >= 1 / m: logsumexp would read all logits several times more.
        normalisers = row.amax(dim=1) - softmax.amax(dim=1).log()
        mean = _inner(softmax, row, products[: len(row)])
        found.append((normalisers, normalisers - mean))
    normaliser, entropy = (joined(each) for each in zip(*found, strict=True))
    return probabilities, normaliser, entropy


def _blocks(student: Tensor, teacher: Tensor, probabilities: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The arguments of ``mean_and_excess``, of one block of rows after another."""
    scratch = _scratch(3, student)
    rows = scratch.shape[1]
    for block in zip(*(torch.split(each, rows) for each in (student, teacher, probabilities)), strict=True):
        differences, spare, other = scratch[:, : len(block[0])].unbind()
        yield torch.sub(*block[:2], out=differences), block[2], spare, other


def _scratch(number: int, logits: Tensor) -> Tensor:
    """That many uninitialised blocks of rows of [B, m] logits."""
    rows = max(1, (BLOCK if logits.device.type == "cpu" else GPU_BLOCK) // logits.shape[1])
    return logits.new_empty(number, min(rows, len(logits)), logits.shape[1])


def mean_and_excess(differences: Tensor, probabilities: Tensor, spare: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows d [B, c] under probabilities p [B, c]: E_p d and E_p[expm1(d') - d'], each [B].

    ``differences`` and two scratch tensors of its shape are overwritten.
    """
    mean = _inner(probabilities, differences, spare)
    differences.sub_(mean[:, None])
    # expm1(x) - x is x^2 / 2, to x / 3, where rounding of expm1(x), to eps / x, would be larger.
    limit = (3 * torch.finfo(differences.dtype).eps) ** 0.5
    large = torch.ops.aten.hardshrink(differences, limit, out=spare)
    differences.sub_(large)  # 0 where they are large, as ``large`` is where they are small
    terms = torch.expm1(large, out=other).sub_(large).addcmul_(differences, differences, value=0.5)
    return mean, _inner(terms, probabilities, spare)


def from_excess(excess: Tensor, difference: Tensor) -> Tensor:
    """KL [B] from E_p[expm1(d') - d'] [B], which may overflow; then it is ``difference``, the formula's left side."""
    return torch.where(excess < 1, excess.log1p(), difference)


def joined(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """The concatenated vectors [B], of one dtype; a single one is returned as it is, to launch no kernel."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def mean_softmax(logits: Iterable[Tensor]) -> Tensor:
    """Logits [B, m] whose softmax is the mean of the softmaxes of ``logits``; those of one are returned as they are.

    log sum_k softmax(z_k): the constant log K does not change a softmax. One after another is taken from ``logits``.
    """
    given = iter(logits)
    total = first = next(given)
    for each in given:
        before = first.log_softmax(dim=1) if total is first else total
        total = torch.logaddexp(before, each.log_softmax(dim=1))
    return total


def row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [B] of the rows of two [B, m] tensors, without a third one."""
    if _in_tf32(a):
        return torch.cat([(x * y).sum(dim=1) for x, y in zip(torch.split(a, 32), torch.split(b, 32), strict=True)])
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()


def _inner(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """The same with a scratch tensor [B, m]: faster on a CPU, where a GPU launches one kernel more."""
    if a.is_cuda and not _in_tf32(a):
        return row_dot(a, b)
    return torch.mul(a, b, out=scratch).sum(dim=1)


def _in_tf32(a: Tensor) -> bool:
    """Whether matrix products of ``a`` are in tf32, whose rounding is larger than the differences of such sums."""
    return a.is_cuda and a.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
