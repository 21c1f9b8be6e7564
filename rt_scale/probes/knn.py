"""The k-nearest-neighbour probe: an exact search at the speed of matrix products.

The neighbours b of a have the smallest h(b) = |b|^2 - 2 ab, which a matrix product computes for all b at once, but with
rounding: for clusters far apart, the rounding of |b|^2 exceeds the differences within a cluster. So h only excludes
rows that cannot be neighbours. The others are compared by sums of squared differences in float64, without cancellation.

Why the result is exact. Let u be the unit roundoff of the arithmetic of h, D the width, n = D + 8, gamma = n u /
(1 - n u), B the largest |b| and R = |a| + B, all after centring. In any order of summation |b|^2 is computed within
gamma_D B^2, and h from it within gamma_{D+2} (B^2 + 2 |a| B) (Higham 2002, section 3.1); rounding the centred vectors
changes a squared distance by little more than 2 u R^2. Together that is at most gamma (R^2 + B^2), and 4 n times the
smallest normal number if products underflow. A sum of squared differences is within (D + 3) R^2 times the roundoff of
float64. Let E be the sum of these errors. With v the k-th smallest computed h of a row,

- a b whose computed h is above v + 2 E is farther than k others, also by the computed sums of squared differences;
- so if the next computed h after v is above v + 2 E, the first k are the neighbours;
- and if one of the first k + ``SPARE`` is, the neighbours are among these: those below v - 2 E, which fewer than k
  can precede, and the rest by their differences.

Other rows are searched again with h in float64. If more than ``SPARE`` training rows are equally far even then, the row
is compared with all distinct training rows by differences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rt_scale.spec.errors import InputError
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.precision import without_tf32

SPARE = 8
"""Candidates beyond k that are compared exactly where products do not separate the k-th from the next."""
# Most products, values of centred training rows, and differences in memory at a time.
_TILE_ELEMENTS, _CENTRED_ELEMENTS, _EXACT_ELEMENTS = 1 << 24, 1 << 26, 1 << 22
_LEAST_TILE_ROWS = 64


def nearest(train: Tensor, test: Tensor, k: int, check_stop: StopCheck = no_check) -> Tensor:
    """Indices int64 [M, k] of the rows of ``train`` [N, D] nearest to each finite row of ``test`` [M, D], unordered.

    By Euclidean distance, compared as sums of squared differences in float64. Of equally far rows those of the lowest
    index are taken. Rows of ``train`` that are not finite are farther than all others.
    """
    finite = finite_rows(train)
    if not finite.all():
        train = train.masked_fill(~finite.unsqueeze(1), 0.0)
    found = torch.empty((len(test), k), dtype=torch.int64, device=train.device)
    left = torch.arange(len(test), device=train.device)
    for dtype in (torch.float32, torch.float64):
        index, sure = _by_products(train, finite, test[left], k, dtype, check_stop)
        found[left[sure]] = index[sure]
        left = left[~sure]
        if not len(left):
            return found
    found[left] = _among_all(train, finite, test[left], k, check_stop)
    return found


def finite_rows(x: Tensor) -> Tensor:
    """Bool [N]: which rows of float [N, D] hold neither infinities nor NaN."""
    if torch.isfinite(x.sum()):  # ten times as fast as a check of each row; a finite sum has only finite terms
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    return torch.isfinite(x).all(dim=1)


def _by_products(
    train: Tensor, finite: Tensor, test: Tensor, k: int, dtype: torch.dtype, check_stop: StopCheck
) -> tuple[Tensor, Tensor]:
    """Neighbours [M, k] by h in ``dtype``, and whether those of each row are sure, i.e. exact."""
    mean = train.mean(dim=0).nan_to_num_(0.0, 0.0, 0.0)  # any shift is correct, also if the sum overflows
    tiles = torch.split(test, max(_LEAST_TILE_ROWS, _TILE_ELEMENTS // len(train)))
    best: list[tuple[Tensor, Tensor]] = []
    longest = torch.zeros((), dtype=torch.float64, device=train.device)
    rows = max(1, _CENTRED_ELEMENTS // max(train.shape[1], 1))
    for start in range(0, len(train), rows):
        centred = _centre(train[start : start + rows], mean, dtype)
        squares = torch.linalg.vecdot(centred, centred)
        longest = torch.maximum(longest, squares.max())
        squares.masked_fill_(~finite[start : start + rows], torch.inf)
        for number, tile in enumerate(tiles):
            check_stop()
            with without_tf32():
                products = torch.addmm(squares, _centre(tile, mean, dtype), centred.T, alpha=-2.0)
            found = _smallest(products, k + SPARE)
            if start:
                values, index = (
                    torch.cat(pair, dim=1) for pair in zip(best[number], (found[0], found[1] + start), strict=True)
                )
                smallest, order = _smallest(values, k + SPARE)
                best[number] = smallest, index.gather(1, order)
            else:
                best.append(found)
    decided = []
    for tile, (values, index) in zip(tiles, best, strict=True):
        check_stop()
        error = _error(_centre(tile, mean, dtype), longest)
        decided.append(_decide(train, finite, tile, error, k, values, index))
    return torch.cat([index for index, _ in decided]), torch.cat([sure for _, sure in decided])


def _smallest(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The ``most`` smallest values of each row, or all, in ascending order, and their positions."""
    found = values.topk(min(most, values.shape[1]), dim=1, largest=False)
    return found.values, found.indices


def _centre(x: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    return (x.to(torch.promote_types(x.dtype, dtype)) - mean).to(dtype)


def _error(centred: Tensor, longest: Tensor) -> Tensor:
    """E of centred test rows [M, D], float64 [M]; ``longest`` is B^2. Infinite if h may overflow."""
    info, exact = torch.finfo(centred.dtype), torch.finfo(torch.float64)
    n = centred.shape[1] + 8
    reach: Tensor = (torch.linalg.vecdot(centred, centred).double().sqrt() + longest.sqrt()).square()
    gamma, exact_gamma = (n * each.eps / 2 / (1 - n * each.eps / 2) for each in (info, exact))
    error = gamma * (reach + longest) + exact_gamma * reach + 4 * n * info.tiny
    return error.masked_fill(~(4 * reach < info.max), torch.inf)


def _decide(
    train: Tensor, finite: Tensor, test: Tensor, error: Tensor, k: int, values: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """The neighbours [M, k] among candidates, nearest first by ``values``, and whether they are sure."""
    whole = index.shape[1] == len(train)
    if index.shape[1] == k:  # then k = N
        return index, torch.full_like(error, whole, dtype=torch.bool)
    beyond = values.double() - values[:, k - 1 : k]
    out, within = beyond > 2 * error.unsqueeze(1), beyond < -2 * error.unsqueeze(1)
    sure = out[:, -1] | whole
    again = (sure & ~out[:, k]).nonzero().squeeze(1)
    chosen = index[:, :k].contiguous()
    if len(again):
        candidates, order = index[again].sort(dim=1)
        out, within = (each[again].gather(1, order) for each in (out, within))
        squares = torch.zeros_like(candidates, dtype=torch.float64)
        squares.masked_fill_(out | ~finite[candidates], torch.inf).masked_fill_(within, -torch.inf)
        open_ = squares == 0
        rows, columns = open_.nonzero(as_tuple=True)
        squares[open_] = _squared_distances(train, candidates[rows, columns], test, again[rows])
        chosen[again] = candidates.gather(1, _lowest(squares, k))
    return chosen, sure


def _among_all(train: Tensor, finite: Tensor, test: Tensor, k: int, check_stop: StopCheck) -> Tensor:
    """The neighbours [M, k] by differences from all rows; equal rows are compared once."""
    distinct, of = torch.unique(train, dim=0, return_inverse=True)
    queries, query_of = torch.unique(test, dim=0, return_inverse=True)
    found = torch.empty((len(queries), k), dtype=torch.int64, device=train.device)
    everything = torch.arange(len(distinct), device=train.device)
    for number in range(len(queries)):
        check_stop()
        squares = _squared_distances(distinct, everything, queries, torch.full_like(everything, number))[of]
        found[number] = _lowest(squares.masked_fill_(~finite, torch.inf), k)
    return found[query_of]


def _squared_distances(train: Tensor, of: Tensor, test: Tensor, to: Tensor) -> Tensor:
    """Squared distances, float64 [P], between the rows ``of`` of ``train`` and ``to`` of ``test``, both int64 [P]."""
    found = torch.empty(len(of), dtype=torch.float64, device=of.device)
    pairs = max(1, _EXACT_ELEMENTS // max(train.shape[1], 1))
    for part in torch.split(torch.arange(len(of), device=of.device), pairs):
        found[part] = (train[of[part]].double() - test[to[part]].double()).square_().sum(dim=1)
    return found


def _lowest(values: Tensor, k: int) -> Tensor:
    """Positions of the k lowest values along the last dimension; of equal ones the first."""
    return values.sort(dim=-1, stable=True).indices[..., :k]


@torch.no_grad()
def knn_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    k: int = 20,
    classes: int,
    check_stop: StopCheck = no_check,
) -> float:
    """Accuracy, in [0, 1], of a majority vote among the k nearest training embeddings (paper, appendix C.1).

    The neighbours are those of ``nearest``. Of classes with equally many votes the lowest wins, as in scikit-learn.
    A test sample whose embedding is not finite counts as wrong.

    Args:
        train_x, test_x: float32 [N, D] and [M, D], on the same device.
        train_y, test_y: int64 [N] and [M], in [0, classes).
        k: neighbours, 1 to N; InputError otherwise.
    """
    check_neighbours(k, len(train_x))
    known = finite_rows(test_x)
    right = _vote(train_y[nearest(train_x, test_x[known], k, check_stop)], classes) == test_y[known]
    return right.sum().item() / len(test_y)


def check_neighbours(k: int, samples: int) -> None:
    """Raise InputError if ``k`` is not in 1 to ``samples``."""
    if not 1 <= k <= samples:
        raise InputError(
            f"{k} nearest neighbours were asked for among {samples} training embeddings. "
            f"Set probe.knn to 1 to {samples}, or to 0 to leave the kNN probe out."
        )


def _vote(labels: Tensor, classes: int) -> Tensor:
    """The most frequent label [M] in each row of [M, k]; the lowest of equals, since argmax returns the first."""
    votes = torch.zeros((len(labels), classes), dtype=torch.int32, device=labels.device)
    votes.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.int32))
    return votes.argmax(dim=1)
