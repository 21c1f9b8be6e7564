"""Planes and lines of parameter space: their files, their coordinates, and their values between networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rt_scale.analyses.plane import orthonormal
from rt_scale.report.analyses.base import damage_told

Array = NDArray[np.float64]
PLANE, LINE = "plane.npz", "line.npz"
NEAR = 0.25
"""Share of the way from the origin to a network within which points count as near it."""
SIDES = ("origin", "x", "y")
"""The three networks, in the order of corners."""
_PLACES = ("x", "corners", "gram", "gram_encoder")


@dataclass(frozen=True)
class Plane:
    """A plane, computed or partly computed; or a line, which has one row and no y.

    Attributes:
        x, y: [W] and [H], affine coordinates; of a line y is 0.
        corners: [3, 2], those of origin, x and y; of a line [2, 2].
        gram, gram_encoder: [3, 3], inner products of origin, x - origin, y - origin, of the network and its encoder; of
            a line [2, 2].
        values: measure -> [H, W]; NaN where not computed yet.
        networks: measure -> [3], its values at origin, x and y themselves, which may lie between points; or NaN.
        path: [n, 2], where other networks are, seen from the plane.
    """

    x: Array
    y: Array
    corners: Array
    gram: Array
    gram_encoder: Array
    values: Mapping[str, Array]
    networks: Mapping[str, Array] = field(default_factory=dict)
    path: Array | None = None

    @property
    def is_line(self) -> bool:
        """Whether it has one row."""
        return len(self.y) == 1

    @property
    def grid(self) -> Array:
        """The points' affine coordinates [H, W, 2]."""
        return np.stack(np.meshgrid(self.x, self.y), axis=-1)

    @property
    def inside(self) -> list[int]:
        """The networks, by their corner, that lie in its window."""
        ends = [(axis.min(), axis.max()) for axis in (self.x, self.y)]
        within = [all(low <= value <= high for value, (low, high) in zip(corner, ends, strict=True))
                  for corner in self.corners]  # fmt: skip
        return [number for number, each in enumerate(within) if each]

    @functools.cached_property
    def computed(self) -> NDArray[np.bool_]:
        """Which points have been measured [H, W]; norms, which follow from the inner products, are known of all."""
        measured = [np.isfinite(each) for name, each in self.values.items() if not name.startswith("norm")]
        found: NDArray[np.bool_] = np.any(measured, axis=0)
        return found

    def place(self, points: Array, *, encoder: bool = False) -> Array:
        """Orthonormal coordinates of points [..., 2] of a plane, of the network or of its encoder."""
        return orthonormal(self.gram_encoder if encoder else self.gram, points)

    def filled(self, measure: str) -> Array:
        """The measure [H, W], at points that are not computed that of the nearest point of the grid that is."""
        from scipy.ndimage import distance_transform_edt  # takes a moment to import

        values = self.values[measure]
        missing = ~np.isfinite(values)
        if not missing.any() or missing.all():
            return values
        rows, columns = distance_transform_edt(missing, return_distances=False, return_indices=True)
        found: Array = values[rows, columns]
        return found

    def between(self, measure: str, corner: int, shares: Array) -> Array:
        """The measure on the line from the origin (share 0) to the network ``corner`` (1 or 2; share 1).

        Linear between points of the grid; NaN beyond it and beside points that are not computed.
        """
        from scipy.interpolate import RegularGridInterpolator  # takes a moment to import

        start, end = self.corners[0], self.corners[corner]
        places = start + shares[:, None] * (end - start)
        if self.is_line:
            along: Array = np.interp(places[:, 0], self.x, self.values[measure][0], math.nan, math.nan)
            return along
        look = RegularGridInterpolator((self.y, self.x), self.values[measure], bounds_error=False, fill_value=np.nan)
        found: Array = look(places[:, ::-1])
        return found

    def at(self, measure: str, corner: int) -> float:
        """The measure at the origin (0) or the network ``corner``, between points if need be; NaN if it is unknown."""
        if measure not in self.values:
            return math.nan
        if measure in self.networks and math.isfinite(self.networks[measure][corner]):
            return float(self.networks[measure][corner])
        return float(self.between(measure, corner or 1, np.array([float(corner > 0)]))[0])

    def around(self, measure: str, corner: int, of: int) -> float:
        """The mean of the measure over the points at most a quarter of the way from the origin to the network ``of``
        away from the network ``corner``, by the parameters' distance; NaN if one is not computed, or there is none."""
        if measure not in self.values:
            return math.nan
        axes = len(self.gram) - 1
        to_points, whole = self.grid - self.corners[corner], self.corners[of] - self.corners[0]
        near, far = (
            np.sqrt(np.einsum("...i,ij,...j", each[..., :axes], self.gram[1:, 1:], each[..., :axes]))
            for each in (to_points, whole)
        )
        inside = self.values[measure][near <= NEAR * far]
        return float(inside.mean()) if inside.size else math.nan

    @property
    def kl(self) -> str:
        """The measure that is the KL divergence of outputs to the teacher: on training images, if it was measured."""
        return "kl_train" if "kl_train" in self.values else "kl_test"


@dataclass(frozen=True)
class Between:
    """The KL divergence on the line from the origin to a network, linear between points of the grid; NaN if unknown.

    Attributes:
        end: at the network.
        highest: on the segment.
        barrier: highest / end.
        asymmetry: a tenth of the way in the other direction, divided by that a tenth of the way to the network.
    """

    end: float
    highest: float
    barrier: float
    asymmetry: float

    @classmethod
    def of(cls, plane: Plane, corner: int) -> Between:
        """To the network ``corner``."""
        if plane.kl not in plane.values:
            return cls(*[math.nan] * 4)
        inside = plane.between(plane.kl, corner, np.linspace(0, 1, 201)[1:-1])
        back, forth = plane.between(plane.kl, corner, np.array([-0.1, 0.1]))
        end = plane.at(plane.kl, corner)
        highest = float(np.maximum(inside.max(), end))
        barrier = highest / end if end > 0 else math.nan
        return cls(end, highest, barrier, float(back / forth) if forth > 0 else math.nan)


def read_plane(path: Path, measured: Mapping[str, float] | None = None) -> Plane:
    """The plane or line in a file of a landscape run; ``measured`` are its metrics, ``x/kl_train`` for the x network.

    RunError: the file is damaged.
    """
    known = measured or {}
    with damage_told(path), path.open("rb") as source, np.load(source, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
        places = {name: np.asarray(arrays.pop(name), np.float64) for name in _PLACES}
        places["y"] = np.asarray(arrays.pop("y", np.zeros(1)), np.float64)
        shape = (len(places["y"]), len(places["x"]))
        if "path_at" in arrays:
            places["path"] = _two(arrays["path_at"])
    places["corners"] = _two(places["corners"])
    values = {name: each.reshape(shape) for name, each in arrays.items() if each.size == math.prod(shape)}
    values = {name: each for name, each in values.items() if not name.startswith("path_")}
    networks = {name: np.array([known.get(f"{side}/{name}", math.nan) for side in SIDES]) for name in values}
    return Plane(**places, values=values, networks=networks)


def _two(points: Array) -> Array:
    """Points [n, 2] from [n, axes]."""
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
