"""Coordinates of planes against plain vectors, and values between networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rt_scale.report.analyses.planes import Between, Plane, read_plane
from rt_scale.spec.errors import RunError
from tests.unit.report.analyses.planes import VECTORS, line_arrays, npz, plane_arrays


def plane(tmp_path: Path, **arguments: float) -> Plane:
    path = tmp_path / "plane.npz"
    path.write_bytes(npz(plane_arrays(**arguments)))  # type: ignore[arg-type]
    return read_plane(path)


@pytest.mark.parametrize("encoder", [False, True])
def test_orthonormal_coordinates_keep_distances(tmp_path: Path, encoder: bool) -> None:
    vectors = VECTORS[:, :2] if encoder else VECTORS
    affine = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.3, -0.7], [2.0, 1.5]])
    points = vectors[0] + affine @ (vectors[1:] - vectors[0])
    places = plane(tmp_path).place(affine, encoder=encoder)
    between = np.linalg.norm(places[:, None] - places, axis=-1)
    assert between == pytest.approx(np.linalg.norm(points[:, None] - points, axis=-1))


def test_a_line_is_a_plane_of_one_row(tmp_path: Path) -> None:
    path = tmp_path / "line.npz"
    path.write_bytes(npz(line_arrays()))
    line, whole = read_plane(path), plane(tmp_path)
    assert (line.is_line, whole.is_line) == (True, False)
    assert set(line.values) == set(whole.values)
    assert line.path is not None
    assert line.path.tolist() == [[0.2, 0], [0.7, 0]]
    for one, other in zip(vars(Between.of(line, 1)).values(), vars(Between.of(whole, 1)).values(), strict=True):
        assert one == pytest.approx(other)
    assert line.at("linear", 1) == pytest.approx(whole.at("linear", 1))
    near = np.abs(line.x - 1) <= 0.25
    assert line.around("linear", 1, of=1) == pytest.approx(line.values["linear"][0, near].mean())


def test_a_file_is_a_plane_with_its_measures_alone(tmp_path: Path) -> None:
    found = plane(tmp_path, width=5, height=4)
    assert set(found.values) == {"kl_train", "kl_embedding_train", "linear", "linear_standardized", "norm"}
    assert found.grid.shape == (4, 5, 2)
    assert tuple(found.grid[1, 2]) == (found.x[2], found.y[1])
    assert found.computed.all()


def test_points_that_are_not_computed_are_told_and_filled_by_the_nearest(tmp_path: Path) -> None:
    found = plane(tmp_path, known=0.3)
    assert 0.2 < found.computed.mean() < 0.4
    filled = found.filled("kl_train")
    assert np.isfinite(filled).all()
    assert (filled[found.computed] == found.values["kl_train"][found.computed]).all()
    row, column = next(zip(*np.nonzero(~found.computed), strict=True))
    rows, columns = np.nonzero(found.computed)
    near = np.hypot(rows - row, columns - column)
    assert filled[row, column] in found.values["kl_train"][rows[near == near.min()], columns[near == near.min()]]


def test_values_between_networks_are_those_of_the_grid(tmp_path: Path) -> None:
    found = plane(tmp_path, width=21, height=21)  # a step of 0.1
    shares = np.array([-0.5, 0.0, 0.05, 0.1, 1.0, 1.6])
    values, row = found.values["kl_train"], 5
    between = found.between("kl_train", 1, shares)
    assert between[[0, 1, 3, 4]] == pytest.approx(values[row, [0, 5, 6, 15]])
    assert between[2] == pytest.approx(values[row, [5, 6]].mean())
    assert np.isnan(between[5])
    assert found.between("kl_train", 2, shares)[4] == pytest.approx(values[15, 5])
    assert found.at("linear", 1) == pytest.approx(found.values["linear"][5, 15])
    assert found.at("linear", 0) == pytest.approx(found.values["linear"][5, 5])
    assert np.isnan(found.at("knn", 1))


def test_barrier_and_asymmetry_are_ratios_of_divergences(tmp_path: Path) -> None:
    found, (row, start) = plane(tmp_path), (5, 5)
    values = found.values["kl_train"]
    between = Between.of(found, 1)
    assert between.end == pytest.approx(values[row, 15])
    assert between.highest == pytest.approx(values[row, start:16].max())
    assert between.barrier == pytest.approx(values[row, start:16].max() / values[row, 15])
    assert between.asymmetry == pytest.approx(values[row, 4] / values[row, 6])
    assert between.asymmetry > 20
    assert Between.of(found, 2).asymmetry == pytest.approx(values[4, start] / values[6, start])


def test_a_ratio_without_its_points_is_unknown(tmp_path: Path) -> None:
    assert plane(tmp_path).inside == [0, 1, 2]
    cropped = plane(tmp_path, window=-0.2)  # from 0.2 to 0.8
    assert cropped.inside == []
    assert np.isnan([Between.of(cropped, 1).barrier, Between.of(cropped, 1).asymmetry]).all()


def test_a_mean_around_a_network_is_over_parameters_near_it(tmp_path: Path) -> None:
    found = plane(tmp_path)
    points = VECTORS[0] + found.grid @ (VECTORS[1:] - VECTORS[0])
    radius = 0.25 * np.linalg.norm(VECTORS[2] - VECTORS[0])
    inside = np.linalg.norm(points - VECTORS[1], axis=-1) <= radius
    assert 3 < inside.sum() < 100
    assert found.around("linear", 1, of=2) == pytest.approx(found.values["linear"][inside].mean())
    assert np.isnan(found.around("knn", 1, of=2))
    assert np.isnan(plane(tmp_path, known=0.3).around("linear", 1, of=2))


@pytest.mark.parametrize("damage", [b"", npz(plane_arrays())[:900], npz({"x": np.zeros(3)})])
def test_a_torn_file_is_told(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "plane.npz"
    path.write_bytes(damage)
    with pytest.raises(RunError, match=r"plane\.npz' cannot be read"):
        read_plane(path)
