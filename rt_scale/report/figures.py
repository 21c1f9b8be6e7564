"""Draws panels of lines with their intervals, under one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rt_scale.report.panels import Drawing, Line

Colour = str | tuple[float, float, float, float]


def draw(panels: Sequence[Drawing], title: str, columns: int, *, same_heights: bool = False) -> Figure:
    """Panels (at least one) in rows of ``columns``, and a legend; with ``same_heights`` a row shares its axis."""
    ours = dict.fromkeys(line.label for panel in panels for line in panel.lines if line.style == "ours")
    colours = _line_colours(list(ours))
    styles = {line.style: line.label for panel in panels for line in panel.lines if line.style != "ours"}
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], label=label, **{"color": "0.3", **_STYLES[style]}) for style, label in styles.items()]
    rows, width = -(-len(panels) // columns), max(6.4, (4.1 if columns < 4 else 3.2) * columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, 3.2 * rows + 0.6), squeeze=False, layout="constrained",
        sharey="row" if same_heights else False,
    )  # fmt: skip
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, colours)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    if same_heights:
        for axis in axes.flat:
            axis.label_outer()
    figure.suptitle(title, fontsize=11)
    per_row = max(2, int(width / 2.4))
    figure.legend(handles=handles, loc="outside lower center", ncols=per_row, frameon=False, fontsize=8)
    return figure


_STYLES: Mapping[str, dict[str, Any]] = {
    "ours": {"marker": "o", "ms": 3, "lw": 1.6},
    "teacher": {"ls": "--", "lw": 1.1},
    "input": {"ls": ":", "lw": 1.2, "color": "tab:red"},
    "paper": {"ls": "none", "marker": "D", "mfc": "none", "ms": 6},
}


def _draw_panel(axis: Axes, panel: Drawing, colours: Mapping[str, Colour]) -> None:
    names = list(dict.fromkeys(name for line in panel.lines for name in line.x)) if panel.scale == "names" else []
    ours = [line.label for line in panel.lines if line.style == "ours"]
    for line in panel.lines:
        own = line.label if line.style == "ours" else line.of
        look = {"color": colours.get(own, "0.3"), **_STYLES[line.style]}
        x = list(line.x)
        if names:  # shifted sideways, so that lines do not overlap
            x = [names.index(name) + 0.12 * (ours.index(own) - (len(ours) - 1) / 2) for name in line.x]
            look |= {"ls": "none"} | ({"marker": "_", "ms": 9} if line.style == "teacher" else {})
        axis.plot(x, list(line.y), **look)
        if line.style == "ours":
            _interval(axis, x, line, look["color"], bars=bool(names))
    if names:
        axis.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        axis.margins(x=0.1)
    elif panel.scale != "linear":
        axis.set_xscale("log", base=2 if panel.scale == "log2" else 10)
    axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if axis.get_ylim()[0] < 0 <= min((min(line.y) for line in panel.lines if len(line.y)), default=0):
        axis.set_ylim(bottom=0)  # the margin of the axis is below possible values
    axis.set_title(panel.title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _interval(axis: Axes, x: Sequence[float], line: Line, colour: Colour, bars: bool) -> None:
    if not len(line.low):
        return
    mean, low, high = (np.asarray(each, float) for each in (line.y, line.low, line.high))
    if bars:
        axis.errorbar(x, mean, np.stack((mean - low, high - mean)), fmt="none", ecolor=colour, capsize=3, lw=1.2)
    else:
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def save(figure: Figure, *paths: Path) -> None:
    """Write the figure to all ``paths`` (the suffix gives the format) and free its memory."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Text in SVG stays text: smaller and searchable. The fixed salt and the missing date make files reproducible.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rt-scale"}):
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _colours(names: Sequence[str]) -> dict[str, Colour]:
    distinct = list(dict.fromkeys(names))
    return {name: plt.get_cmap("viridis")(0.05 + 0.8 * i / max(1, len(distinct) - 1))
            for i, name in enumerate(distinct)}  # fmt: skip


def _line_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """A colour scale for numbers, distinct colours for names; red is reserved for the input."""
    numbers = [label for label in labels if " = " in label]
    names = [label for label in labels if label not in numbers]
    palette = [f"tab:{name}" for name in ("blue", "orange", "green", "purple", "brown", "pink", "olive", "cyan")]
    return _colours(numbers) | {name: palette[place % len(palette)] for place, name in enumerate(names)}
