"""The plane through three networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rt_scale.analyses.plane import (
    CENTRES,
    CORNERS,
    axis,
    centre,
    coarse_first,
    gram,
    height_square,
    norms,
    orthonormal,
    refuse_degenerate,
    shares,
)
from rt_scale.spec.errors import InputError


def networks(*vectors: np.ndarray) -> list[dict[str, torch.Tensor]]:
    """Weights of which ``a`` and ``b`` together are the vectors; ``c`` is in no plane."""
    return [{"a": torch.tensor(each[:3]), "b": torch.tensor(each[3:]), "c": torch.ones(1)} for each in vectors]


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 7))


@pytest.fixture
def products(vectors: np.ndarray) -> np.ndarray:
    return gram(networks(*vectors), ["a", "b"])


def test_the_gram_matrix_is_of_origin_and_the_ways_from_it(vectors: np.ndarray, products: np.ndarray) -> None:
    o, x, y = vectors
    basis = np.stack([o, x - o, y - o])
    np.testing.assert_allclose(products, basis @ basis.T, rtol=1e-12)
    part = gram(networks(*vectors), ["b"])
    np.testing.assert_allclose(part, basis[:, 3:] @ basis[:, 3:].T, rtol=1e-12)


def at(vectors: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The weights of points."""
    o, x, y = vectors
    return o + points[..., :1] * (x - o) + points[..., 1:] * (y - o)


def test_norms_are_those_of_the_weights(vectors: np.ndarray, products: np.ndarray) -> None:
    points = np.random.default_rng(1).normal(size=(4, 5, 2))
    np.testing.assert_allclose(norms(products, points), np.linalg.norm(at(vectors, points), axis=-1), rtol=1e-12)


@pytest.mark.parametrize("of", CENTRES)
def test_orthonormal_coordinates_keep_distances(vectors: np.ndarray, products: np.ndarray, of: str) -> None:
    points = np.random.default_rng(1).normal(size=(6, 2))
    there = orthonormal(products, points, of)
    for one, other, first, second in zip(there, there[1:], points, points[1:], strict=False):
        distance = np.linalg.norm(at(vectors, first) - at(vectors, second))
        assert np.linalg.norm(one - other) == pytest.approx(distance)
    np.testing.assert_allclose(orthonormal(products, centre(products, of), of), 0, atol=1e-12)
    along = orthonormal(products, CORNERS[1], of) - orthonormal(products, CORNERS[0], of)
    assert along[0] > 0
    assert along[1] == pytest.approx(0, abs=1e-12)


def test_no_point_has_a_smaller_norm_than_the_centre(products: np.ndarray) -> None:
    least = norms(products, centre(products, "least_norm"))
    around = centre(products, "least_norm") + np.random.default_rng(1).normal(size=(100, 2))
    assert (norms(products, around) > least).all()
    np.testing.assert_allclose(centre(products, "mean"), CORNERS.mean(axis=0))


def test_an_unknown_centre_is_named() -> None:
    with pytest.raises(InputError, match="least_norm"):
        centre(np.eye(3), "leastnorm")


def test_the_height_is_the_distance_from_the_line(vectors: np.ndarray, products: np.ndarray) -> None:
    o, x, y = vectors
    unit = (x - o) / np.linalg.norm(x - o)
    assert height_square(products) == pytest.approx(np.sum(((y - o) - unit * (unit @ (y - o))) ** 2))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(0, 0), (0, 0), (0, 1)], "origin and x have equal"),
        ([(0, 0), (1, 0), (0, 0)], "origin and y have equal"),
        ([(0, 0), (1, 0), (1, 0)], "x and y have equal"),
        ([(0, 0), (1, 0), (-3, 0)], "one line"),
    ],
)
def test_no_plane_is_refused(vectors: np.ndarray, points: list[tuple[int, int]], words: str) -> None:
    single = at(vectors, np.array(points, float)).astype(np.float32)
    with pytest.raises(InputError, match=words):
        refuse_degenerate(gram(networks(*single), ["a", "b"]))


def test_a_flat_plane_is_one(vectors: np.ndarray) -> None:
    flat = at(vectors, np.array([(0, 0), (1, 0), (0.5, 1e-3)])).astype(np.float32)
    refuse_degenerate(gram(networks(*flat), ["a", "b"]))


def test_shares_are_exact_at_the_corners() -> None:
    assert [shares(*corner) for corner in CORNERS] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert shares(0.25, 0.5) == (0.25, 0.25, 0.5)


@pytest.mark.parametrize("window", [(-0.5, 1.5), (-0.3, 1.7), (0.1, 0.7)])
def test_a_finer_axis_keeps_the_points_bitwise(window: tuple[float, float]) -> None:
    for points in (11, 26, 37):
        assert axis(*window, 2 * points - 1)[::2].tolist() == axis(*window, points).tolist()
    assert (axis(*window, 5)[0], axis(*window, 5)[-1]) == pytest.approx(window)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (9, 9), (21, 13)])
def test_every_point_comes_once_and_coarse_ones_first(shape: tuple[int, int]) -> None:
    order = coarse_first(*shape)
    assert sorted(map(tuple, order.tolist())) == [(r, c) for r in range(shape[1]) for c in range(shape[0])]
    for stride in (2, 4, 8):
        coarse = (order % stride == 0).all(axis=1)
        assert coarse[: coarse.sum()].all()
