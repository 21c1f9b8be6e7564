"""Maps of planes: measures in colours, contours of the norm, and the three networks, in rows and columns of panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import PercentFormatter

from rt_scale.analyses.plane import norms
from rt_scale.report.analyses.planes import Array, Plane

Coordinates = Literal["affine", "orthonormal", "orthonormal encoder"]
"""Of a map: affine ones, or orthonormal ones of the whole network or of its encoder alone."""

_LABELS = (((-4, 4), "right"), ((4, -11), "left"), ((4, 4), "left"))
"""Where the names of origin, x and y stand beside their points, so that those of near points are read: shift in points,
and alignment."""
_SIDE = 3.7
"""Width of a panel, in inches."""


@dataclass(frozen=True)
class Measure:
    """How a measure is drawn; ``low`` and ``high`` are the ends of the paper's colour scale."""

    title: str
    low: float
    high: float
    log: bool = False
    percent: bool = False

    @property
    def colours(self) -> str:
        """The name of its colour map."""
        return "YlGnBu" if self.log else "viridis"

    def scale(self, values: Iterable[Array]) -> tuple[Normalize, str]:
        """The paper's scale if nearly all values are on it, else their own in half decades or steps of 0.05; and how to
        extend the colour bar."""
        every = np.concatenate([each[np.isfinite(each)] for each in values])
        found = every[every > 0] if self.log else every
        low, high = self.low, self.high
        if len(found):
            least, most = np.quantile(found, [0.02, 0.98])
            if self.log:  # the low ends are what is looked at, and few points
                least = found[found >= low].min(initial=most)
            if not low <= least <= most <= high:
                low, high = self._own(float(least), float(most))
        under, over = bool((every < low).any()), bool((every > high).any())
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((under, over), "neither")
        return (LogNorm if self.log else Normalize)(low, high), extend

    def _own(self, least: float, most: float) -> tuple[float, float]:
        """A scale of rounded ends that differ."""
        if self.log:
            low, high = math.floor(2 * math.log10(least)), math.ceil(2 * math.log10(most))
            return 10 ** (low / 2), 10 ** (max(high, low + 1) / 2)
        low, high = math.floor(20 * least), math.ceil(20 * most)
        return low / 20, max(high, low + 1) / 20

    def text(self, value: float) -> str:
        """A value for readers."""
        return "-" if not math.isfinite(value) else f"{100 * value:.1f} %" if self.percent else f"{value:.3g}"


def _kl(title: str, low: float = 1e-7, high: float = 1e-3) -> Measure:
    return Measure(title, low, high, log=True)


def _accuracy(title: str) -> Measure:
    return Measure(title, 0.1, 0.5, percent=True)


MEASURES = {
    "kl_train": _kl("KL to origin (training)"),
    "kl_test": _kl("KL to origin (test)"),
    "kl_embedding_train": _kl("KL of embeddings to origin (training)", 1e-6, 1.0),
    "kl_embedding_test": _kl("KL of embeddings to origin (test)", 1e-6, 1.0),
    "linear": _accuracy("linear probe"),
    "linear_standardized": _accuracy("linear probe, standardised"),
    "ridge": _accuracy("ridge classifier"),
    "knn": _accuracy("k-nearest-neighbour probe"),
    "knn_standardized": _accuracy("k-nearest-neighbour probe, standardised"),
}
"""The measures with the paper's scales, by name."""
TOGETHER = ("linear", "linear_standardized", "ridge")
"""Measures that share one scale, so that raw and standardised features can be compared."""


def measure(name: str) -> Measure:
    """How the measure ``name`` is drawn; one that the paper does not draw has no scale of its own."""
    return MEASURES.get(name) or Measure(name.replace("_", " "), math.inf, -math.inf)


@dataclass(frozen=True)
class Column:
    """A plane with its title and the names of origin, x and y."""

    title: str
    plane: Plane
    names: Sequence[str]


def draw_maps(columns: Sequence[Column], rows: Sequence[str], coordinates: Coordinates, title: str) -> Figure:
    """A map of each measure of ``rows`` and each plane of ``columns``; a measure has one scale of colours.

    In orthonormal coordinates planes are below each other instead, as they can be long or high.
    """
    turned, scales = coordinates != "affine", _scales(columns, rows)
    widths = [_SIDE] * len(rows if turned else columns)
    heights = [_height(column.plane, coordinates) for column in columns] if turned else [_SIDE - 0.5] * len(rows)
    margins = (1.0, 1.0) if turned else (1.8, 0.5)
    figure = Figure((max(sum(widths) + margins[0], 5.2), sum(heights) + margins[1]), layout="constrained")
    share: Literal["row", "col"] = "row" if turned else "col"
    axes = figure.subplots(
        len(heights), len(widths), squeeze=False, sharex=share, sharey=share, height_ratios=heights
    )  # fmt: skip
    panels = axes.T if turned else axes
    for line, name in enumerate(rows):
        norm, extend = scales[name]
        for place, column in enumerate(columns):
            axis = panels[line][place]
            if name in column.plane.values:
                _draw_map(axis, column, name, coordinates, norm)
            else:
                axis.set_axis_off()
            if line == 0:
                # On the left: names of points in the middle of a low panel reach above it.
                axis.set_title(column.title, fontsize=10, loc="left" if turned else "center")
        bar = figure.colorbar(
            ScalarMappable(norm, measure(name).colours), ax=list(panels[line]), extend=extend, fraction=0.05,
            location="bottom" if turned else "right",
        )  # fmt: skip
        bar.set_label(measure(name).title, fontsize=9)
        if measure(name).percent:
            (bar.ax.xaxis if turned else bar.ax.yaxis).set_major_formatter(PercentFormatter(1, decimals=0))
    figure.suptitle(title, fontsize=11)
    return figure


def _height(plane: Plane, coordinates: Coordinates) -> float:
    """Of a panel with its title, in inches."""
    places = plane.place(plane.grid, encoder=coordinates.endswith("encoder")).reshape(-1, 2)
    across, up = np.ptp(places, axis=0)
    return float(np.clip(_SIDE * up / across, 0.7, 4.5)) + 0.4


def _scales(columns: Sequence[Column], rows: Sequence[str]) -> Mapping[str, tuple[Normalize, str]]:
    """Of each row."""
    found = {}
    for name in rows:
        alike = [each for each in rows if each in TOGETHER] if name in TOGETHER else [name]
        values = [column.plane.values[each] for each in alike for column in columns if each in column.plane.values]
        found[name] = measure(name).scale(values)
    return found


def _draw_map(axis: Axes, column: Column, name: str, coordinates: Coordinates, norm: Normalize) -> None:
    plane, encoder = column.plane, coordinates.endswith("encoder")
    lengths = norms(plane.gram_encoder if encoder else plane.gram, plane.grid)

    def place(points: Array) -> Array:
        return points if coordinates == "affine" else plane.place(points, encoder=encoder)

    grid, corners = place(plane.grid), place(plane.corners)
    across, up = grid[..., 0], grid[..., 1]
    values = plane.filled(name)
    if measure(name).log:
        values = np.maximum(values, (norm.vmin or 0) / 2)  # the teacher's own divergence is 0, which has no logarithm
    axis.set_facecolor("0.9")
    axis.pcolormesh(
        across,
        up,
        np.ma.masked_invalid(values),
        cmap=measure(name).colours,
        norm=norm,
        shading="nearest",
        rasterized=True,
    )
    outline: list[AbstractPathEffect] = [
        withStroke(linewidth=1.6, foreground="0.25", alpha=0.5)
    ]  # white lines are lost on light colours
    contours = axis.contour(across, up, lengths, levels=6, colors="white", linewidths=0.8)
    contours.set_path_effects(outline)
    for text in axis.clabel(contours, fontsize=6.5, fmt="%.3g"):
        text.set_path_effects(outline)
    if plane.path is not None:
        axis.plot(*place(plane.path).T, "o-", ms=2.5, lw=0.8, color="black", scalex=False, scaley=False)
    for corner in plane.inside:
        (x, y), (shift, align) = corners[corner], _LABELS[corner]
        axis.plot(x, y, "o", ms=4.5, mfc="white", mec="black", mew=1)
        axis.annotate(column.names[corner], (x, y), shift, textcoords="offset points", fontsize=9, ha=align,
                      path_effects=[withStroke(linewidth=2.2, foreground="white")])  # fmt: skip
    axis.set_aspect("auto" if coordinates == "affine" else "equal")
    axis.tick_params(labelsize=8)
