"""Planes and lines of parameter space: their files, their coordinates, and their values between networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt

from rt_scale.report.analyses.base import damage_told

Array = NDArray[np.float64]
PLANE, LINE = "plane.npz", "line.npz"
NEAR = 0.25
"""Share of the way from the origin to a network within which points count as near it."""
SIDES = ("origin", "x", "y")
"""The three networks, in the order of corners."""
_PLACES = ("x", "y", "corners", "gram", "gram_encoder")


@dataclass(frozen=True)
class Frame:
    """Orthonormal coordinates of a plane, centred at its point of least norm, in units of the parameters' norm.

    Attributes:
        basis: [2, 2], columns are the plane's two affine directions in these coordinates.
        centre: [2], the affine coordinates of the point of least norm.
        height: the norm there.
    """

    basis: Array
    centre: Array
    height: float

    @classmethod
    def of(cls, gram: Array) -> Frame:
        """From the inner products [3, 3] of the origin, x - origin and y - origin."""
        within = gram[1:, 1:]
        basis, centre = np.linalg.cholesky(within).T, -np.linalg.solve(within, gram[1:, 0])
        least = gram[0, 0] + gram[0, 1:] @ centre
        return cls(basis.astype(np.float64), centre.astype(np.float64), math.sqrt(max(least, 0.0)))

    def place(self, affine: Array) -> Array:
        """Affine coordinates [..., 2] in these."""
        found: Array = (affine - self.centre) @ self.basis.T
        return found

    def norm(self, affine: Array) -> Array:
        """The parameters' norm [...] at affine coordinates [..., 2]."""
        found: Array = np.hypot(self.height, np.linalg.norm(self.place(affine), axis=-1))
        return found


@dataclass(frozen=True)
class Plane:
    """A plane, computed or partly computed.

    Attributes:
        x, y: [W] and [H], affine coordinates.
        corners: [3, 2], those of origin, x network and y network.
        gram, gram_encoder: [3, 3], inner products of origin, x - origin, y - origin, of the network and its encoder.
        values: measure -> [H, W]; NaN where not computed yet.
        networks: measure -> [3], its values at origin, x and y themselves, which may lie between points; or NaN.
    """

    x: Array
    y: Array
    corners: Array
    gram: Array
    gram_encoder: Array
    values: Mapping[str, Array]
    networks: Mapping[str, Array] = field(default_factory=dict)

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

    def frame(self, *, encoder: bool = False) -> Frame:
        """Its orthonormal coordinates, of the network or of its encoder."""
        return Frame.of(self.gram_encoder if encoder else self.gram)

    def filled(self, measure: str) -> Array:
        """The measure [H, W], at points that are not computed that of the nearest point of the grid that is."""
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
        start, end = self.corners[0], self.corners[corner]
        places = start + shares[:, None] * (end - start)
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
        frame = self.frame()
        networks = frame.place(self.corners)
        near = np.linalg.norm(frame.place(self.grid) - networks[corner], axis=-1)
        inside = self.values[measure][near <= NEAR * np.linalg.norm(networks[of] - networks[0])]
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
    """The plane in a file of a landscape run; ``measured`` are the run's metrics, ``x/kl_train`` for the x network.

    RunError: the file is damaged.
    """
    known = measured or {}
    with damage_told(path), path.open("rb") as source, np.load(source, allow_pickle=False) as file:
        places = {name: np.asarray(file[name], np.float64) for name in _PLACES}
        arrays = {name: file[name] for name in file.files if name not in _PLACES}
    shape = (len(places["y"]), len(places["x"]))
    values = {name: each for name, each in arrays.items() if each.shape == shape and each.dtype == np.float64}
    networks = {name: np.array([known.get(f"{side}/{name}", math.nan) for side in SIDES]) for name in values}
    return Plane(**places, values=values, networks=networks)
