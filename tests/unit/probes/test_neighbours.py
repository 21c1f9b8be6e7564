"""Neighbours against a search that compares all squared differences in float64, one row after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rt_scale.probes import knn
from rt_scale.probes.knn import nearest


def exact(train: Tensor, test: Tensor, k: int) -> Tensor:
    """The definition: nearest by float64 differences, of equally far ones the first."""
    found = []
    for row in test.double():
        squares = (train.double() - row).square().sum(dim=1)
        squares[~torch.isfinite(train).all(dim=1)] = math.inf
        found.append(squares.sort(stable=True).indices[:k])
    return torch.stack(found).sort(dim=1).values


def draws(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def clusters(rows: int, seed: int) -> Tensor:
    """Two clusters 100,000 spreads apart."""
    return draws(rows, 16, seed) + 1e5 * (torch.arange(rows) % 2).unsqueeze(1)


def far_in_one_dimension(rows: int, seed: int) -> Tensor:
    """Even products of float64 cannot tell members of a cluster apart: 1e12 beside differences of 1."""
    x = draws(rows, 16, seed)
    x[:, 0] = 1e12 * (torch.arange(rows) % 2)
    return x


def lattice(rows: int, seed: int) -> Tensor:
    """Few distinct distances, so many equal ones."""
    return draws(rows, 3, seed).round()


def half_dead(rows: int, seed: int) -> Tensor:
    return draws(rows, 4, seed) * (torch.arange(rows) % 2).unsqueeze(1)


def long_tailed(rows: int, seed: int) -> Tensor:
    """Embeddings of very different lengths."""
    return draws(rows, 8, seed) * (3 * draws(rows, 1, seed + 100)).exp()


KINDS = {
    "ordinary": lambda rows, seed: draws(rows, 32, seed),
    "far from the origin": lambda rows, seed: draws(rows, 7, seed) + 1e4,
    "two clusters far apart": clusters,
    "farther than float64's products": far_in_one_dimension,
    "squares overflow": lambda rows, seed: clusters(rows, seed) * 1e20,
    "sums overflow": lambda rows, seed: draws(rows, 4, seed).clamp(-1, 1) * 3e38,
    "squares underflow": lambda rows, seed: clusters(rows, seed) * 1e-25,
    "all equal": lambda rows, seed: torch.full((rows, 5), 0.1),
    "half of them 0": half_dead,
    "on a lattice": lattice,
    "long-tailed": long_tailed,
}


@pytest.mark.parametrize("k", [1, 5, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_those_of_an_exact_search(kind: str, k: int) -> None:
    train, test = KINDS[kind](300, 0), KINDS[kind](41, 1)
    assert nearest(train, test, k).sort(dim=1).values.tolist() == exact(train, test, k).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_also_where_rows_are_worked_on_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TILE_ELEMENTS", "_EXACT_ELEMENTS"):
        monkeypatch.setattr(knn, name, 7)
    monkeypatch.setattr(knn, "_LEAST_TILE_ROWS", 6)
    train, test = KINDS[kind](120, 0), KINDS[kind](25, 1)
    monkeypatch.setattr(knn, "_CENTRED_ELEMENTS", 50 * train.shape[1])
    assert nearest(train, test, 4).sort(dim=1).values.tolist() == exact(train, test, 4).tolist()


@pytest.mark.parametrize("k", [3, 90])
def test_rows_that_are_not_finite_come_last(k: int) -> None:
    train = draws(100, 4, 0)
    train[3, 1], train[50:70, 0] = math.nan, math.inf
    found = nearest(train, draws(20, 4, 1), k)
    assert found.sort(dim=1).values.tolist() == exact(train, draws(20, 4, 1), k).tolist()
    assert (3 in found[0]) == (k == 90)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["ordinary", "two clusters far apart", "long-tailed", "squares underflow"])
def test_products_err_by_less_than_their_bound(kind: str, dtype: torch.dtype) -> None:
    """Beside h in float64 of the vectors as they are, to which float64's own rounding is added."""
    train, test = KINDS[kind](300, 0), KINDS[kind](41, 1)
    mean = train.mean(dim=0)
    b, a = (knn._centre(x, mean, dtype) for x in (train, test))
    squares = torch.linalg.vecdot(b, b)
    computed = torch.addmm(squares, a, b.T, alpha=-2.0).double()
    bound = knn._error(a, squares.max().double())
    shifted = test.double() - mean.double()
    apart = torch.stack([(train.double() - row).square().sum(dim=1) for row in test.double()])
    true = apart - shifted.square().sum(dim=1, keepdim=True)
    assert ((computed - true).abs() <= bound.unsqueeze(1)).all()


def test_ordinary_rows_are_decided_by_products_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it fast: few pairs are compared by their differences, and no row is searched twice."""
    pairs, stages = [], []
    compare, search = knn._squared_distances, knn._by_products

    def comparing(*given: Tensor) -> Tensor:
        pairs.append(len(given[1]))
        return compare(*given)

    def searching(*given: object) -> tuple[Tensor, Tensor]:
        stages.append(given[4])
        return search(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(knn, "_squared_distances", comparing)
    monkeypatch.setattr(knn, "_by_products", searching)
    nearest(draws(2000, 64, 0), draws(500, 64, 1), 20)
    assert stages == [torch.float32]
    assert sum(pairs) < 500


def test_tf32_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products are right to three digits, and a bound for float32 would not hold."""
    during = []
    product = torch.addmm

    def watched(*given: Tensor, alpha: float) -> Tensor:
        during.append(torch.backends.cuda.matmul.allow_tf32)
        return product(*given, alpha=alpha)

    monkeypatch.setattr(torch, "addmm", watched)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        nearest(draws(10, 3, 0), draws(4, 3, 1), 2)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert during == [False]
