"""Draws panels under one legend, and writes figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from rt_scale.report.figures.panels import Drawing, Heatmap, Line

Colour = str | tuple[float, float, float, float]
_OF_ENCODERS = {"resnet18": "tab:blue", "vgg11": "tab:orange"}
"""The paper's encoders have the same colour in all figures."""
_PALETTE = [f"tab:{name}" for name in ("blue", "orange", "green", "purple", "brown", "pink", "olive", "cyan")]
_NEUTRAL = "0.3"
_STYLES: Mapping[str, dict[str, Any]] = {
    "ours": {"marker": "o", "ms": 3, "lw": 1.8},
    "others": {"lw": 0.5, "color": "0.8", "zorder": 1},
    "teacher": {"ls": "--", "lw": 1.1},
    "input": {"ls": ":", "lw": 1.3},
    "paper": {"ls": "none", "marker": "D", "mfc": "none", "ms": 6},
}
_CROSS: dict[str, Any] = {"ls": "none", "marker": "x", "ms": 6, "mew": 1.6}
"""The teacher's mark where positions are names."""
_INPUT = "tab:red"
"""The input pixels' colour where all lines share them."""
_DODGE = 5.0
"""Points between the bars of neighbouring lines."""
_MOST_TICKS = 8
_WIDEST = 20
"""Characters in a line of a name at an axis."""
_LETTER = 0.085
"""Inches of a letter of a title, about."""


def draw(panels: Sequence[Drawing | Heatmap], title: str, columns: int, *, same_heights: bool = False) -> Figure:
    """Panels (at least one) in rows of ``columns``, and a legend; with ``same_heights`` a row shares its axis."""
    plain = [panel for panel in panels if isinstance(panel, Drawing)]
    colours = _line_colours(
        dict.fromkeys(line.label for panel in plain for line in panel.lines if line.style == "ours")
    )
    rows, width = -(-len(panels) // columns), max(6.4, (4.1 if columns < 4 else 3.2) * columns)
    figure = Figure((width, 3.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if same_heights else False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        if isinstance(panel, Heatmap):
            _draw_heatmap(axis, panel)
        else:
            _draw_panel(axis, panel, colours)
    for axis, panel in zip(axes.flat, panels, strict=False):
        if isinstance(panel, Drawing):  # when no limit changes any more
            _label_references(axis, panel, colours)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    if same_heights:
        for axis in axes.flat:
            axis.label_outer()
    figure.suptitle(textwrap.fill(title, int(width / _LETTER), break_on_hyphens=False), fontsize=11)
    _add_legend(figure, _handles(plain, colours), width)
    return figure


def _handles(panels: Sequence[Drawing], colours: Mapping[str, Colour]) -> list[Line2D]:
    """What the legend shows, in its order."""
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=name) for name, colour in colours.items()]
    others = {line.label: line for panel in panels for line in panel.lines if line.style != "ours"}
    named = {line.label for panel in panels for line in panel.lines if panel.scale == "names" and line.of}
    for label, line in others.items():
        look = {"color": _INPUT if line.style == "input" and not line.of else _NEUTRAL, **_STYLES[line.style]}
        if line.style == "teacher" and label in named:
            look |= _CROSS
        handles.append(Line2D([], [], label=label, **look))
    return handles


def _add_legend(figure: Figure, handles: Sequence[Line2D], width: float) -> None:
    """One row if the handles fit into ``width`` inches, else rows that are read from left to right."""
    if not handles:
        return
    widest = max(len(str(handle.get_label())) for handle in handles)
    per_row = max(2, min(len(handles), int(width / (0.55 + 0.07 * widest))))
    down = [handle for place in range(per_row) for handle in handles[place::per_row]]  # matplotlib fills columns
    figure.legend(
        handles=down, loc="outside lower center", ncols=per_row, frameon=False, fontsize=8, columnspacing=1.4,
        handlelength=1.8,
    )  # fmt: skip


def _draw_panel(axis: Axes, panel: Drawing, colours: Mapping[str, Colour]) -> None:
    names = list(dict.fromkeys(name for line in panel.lines for name in line.x)) if panel.scale == "names" else []
    ours = [line.label for line in panel.lines if line.style == "ours"]
    together = max((sum(name in line.x for line in panel.lines if line.style == "ours") for name in names), default=2)
    for line in panel.lines:
        own = line.label if line.style == "ours" else line.of
        look = {"color": _colour(line, colours), **_STYLES[line.style]}
        if panel.bars and own in ours and together > 1:
            look["transform"] = _beside(axis, ours.index(own) - (len(ours) - 1) / 2)
        x = [names.index(name) for name in line.x] if names else list(line.x)
        if names:
            level = line.style in ("teacher", "input") and not line.of
            look |= {} if level else _CROSS if line.style == "teacher" else {"ls": "none"}
        axis.plot(x, list(line.y), **look)
        if line.style == "ours":
            _draw_spread(axis, x, line, look, panel, len(ours))
    if names:
        turned = max(map(len, names)) > 8
        axis.set_xticks(range(len(names)), _wrapped(names), rotation=30 if turned else 0, fontsize=8,
                        ha="right" if turned else "center")  # fmt: skip
        axis.set_xlim(-0.5, len(names) - 0.5)
    elif panel.scale != "linear":
        axis.set_xscale("log", base=2 if panel.scale == "log2" else 10)
    if panel.scale == "log10_down":
        _count_down(axis, sorted({x for line in panel.lines for x in line.x}, reverse=True))
    elif panel.bars and not names:
        _tick_values(axis, sorted({x for line in panel.lines for x in line.x}))
    if panel.bars:
        _fit(axis, panel.lines, names)
    axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if axis.get_ylim()[0] < 0 <= min((y for line in panel.lines for y in line.y if not math.isnan(y)), default=0):
        axis.set_ylim(bottom=0)  # the margin of the axis is below possible values
    axis.set_title(panel.title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _wrapped(names: Sequence[str]) -> list[str]:
    """Long names in several lines."""
    return [textwrap.fill(name, _WIDEST, break_long_words=False) for name in names]


def _colour(line: Line, colours: Mapping[str, Colour]) -> Colour:
    """That of the line of ours that it is, or belongs to."""
    shared = _INPUT if line.style == "input" else _NEUTRAL
    return colours.get(line.label if line.style == "ours" else line.of, shared)


def _beside(axis: Axes, place: float) -> Any:
    """Data coordinates, shifted sideways by so many places, so that bars do not cover each other."""
    figure = axis.get_figure()
    assert figure is not None
    return axis.transData + ScaledTranslation(_DODGE * place / 72, 0, figure.dpi_scale_trans)


def _fit(axis: Axes, lines: Sequence[Line], names: Sequence[str]) -> None:
    """Set the limits from the data, as what is shifted sideways counts for them in other units."""
    points = [
        (names.index(x) if names else x, value)
        for line in lines
        for values in (line.y, line.low, line.high, *line.seeds)
        for x, value in zip(line.x, values, strict=False)
        if np.isfinite(value)
    ]
    axis.dataLim.update_from_data_xy(np.array(points, float), ignore=True)
    axis.autoscale_view(scalex=not names)


def _draw_spread(axis: Axes, x: Sequence[float], line: Line, look: dict[str, Any], panel: Drawing, lines: int) -> None:
    """Few seeds one by one; intervals as bars, or of many seeds as a band that is paler beside more ``lines``."""
    colour, place = look["color"], {"transform": look["transform"]} if "transform" in look else {}
    for values in line.seeds:
        if panel.bars:
            axis.plot(x, list(values), ls="none", marker="o", ms=2.5, mew=0, alpha=0.45, color=colour, **place)
        else:
            axis.plot(x, list(values), lw=0.6, alpha=0.45, color=colour, scaley=True)
    if not len(line.low):
        return
    mean, low, high = (np.asarray(each, float) for each in (line.y, line.low, line.high))
    if panel.bars:
        axis.errorbar(x, mean, np.stack((mean - low, high - mean)), fmt="none", ecolor=colour, capsize=3, lw=1.2,
                      **place)  # fmt: skip
    elif not line.seeds:
        axis.fill_between(x, low, high, color=colour, alpha=min(0.15, 0.4 / lines), lw=0)


def _tick_values(axis: Axes, values: Sequence[float]) -> None:
    """Ticks at the values themselves, without those too near to one before."""
    if len(values) > _MOST_TICKS:
        return
    scale = axis.get_xaxis().get_transform().transform
    places = [float(place) for place in scale(np.asarray(values, float))]
    width = max(places) - min(places) or 1.0
    kept: list[int] = []
    for number, place in enumerate(places):
        if not kept or place - places[kept[-1]] > 0.07 * width:
            kept.append(number)
    axis.set_xticks([values[number] for number in kept], [_number(values[number]) for number in kept], fontsize=8)
    axis.minorticks_off()


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _label_references(axis: Axes, panel: Drawing, colours: Mapping[str, Colour]) -> None:
    """Name the teachers and inputs of single lines at their right ends, apart from each other."""
    lines = [line for line in panel.lines if line.style in ("teacher", "input") and line.of and len(line.y)]
    if panel.scale == "names" or len(lines) < 2:
        return
    low, high = axis.get_ylim()
    heights = {place: (line.y[-1] - low) / (high - low) for place, line in enumerate(lines)}
    lowest = 0.0
    for place, height in sorted(heights.items(), key=lambda each: each[1]):
        lowest = max(height, lowest)
        line = lines[place]
        axis.text(1.01, lowest, f"{line.label}, {line.of}", fontsize=6.5, va="center", color=_colour(line, colours),
                  transform=axis.transAxes)  # fmt: skip
        lowest += 0.05


def _count_down(axis: Axes, places: Sequence[float]) -> None:
    """An axis from the first place down to the last, with a tick about every halving."""
    ticks = [places[0]]
    for place in places[1:]:
        if place < 0.6 * ticks[-1]:
            ticks.append(place)
    axis.invert_xaxis()
    axis.set_xticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axis.minorticks_off()


def _draw_heatmap(axis: Axes, panel: Heatmap) -> None:
    """Colours from purple (below 0) to green, each cell with its number."""
    values = np.array(panel.values, float)
    most = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    axis.set_facecolor("0.9")
    image = axis.imshow(np.ma.masked_invalid(values), cmap="PRGn", vmin=-most, vmax=most, aspect="auto")
    for row, texts in enumerate(panel.texts):
        for column, text in enumerate(texts):
            dark = abs(values[row, column]) > 0.62 * most
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black",
                      fontweight="bold" if text[-1:] in "▲▼" else "normal")  # fmt: skip
    axis.set_xticks(range(len(panel.columns)), _wrapped(panel.columns), fontsize=8)
    axis.set_yticks(range(len(panel.rows)), _wrapped(panel.rows), fontsize=8)
    axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
    axis.set_title(panel.title, fontsize=10)
    figure = axis.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axis, label=panel.label)


def save(figure: Figure, *paths: Path) -> None:
    """Write the figure to all ``paths``; the suffix gives the format."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Text in SVG stays text: smaller and searchable. The fixed salt and the missing date make files reproducible.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rt-scale"}):
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _line_colours(labels: Iterable[str]) -> dict[str, Colour]:
    """In the legend's order: a colour scale for numbers, distinct colours for names; red is the input's."""
    names = [label for label in labels if " = " not in label]
    numbers = sorted((label for label in labels if " = " in label), key=_value)
    shades = np.linspace(0.05, 0.85, len(numbers)).tolist()
    scale = {name: colormaps["viridis"](shade) for name, shade in zip(numbers, shades, strict=True)}
    fixed = {name: _OF_ENCODERS[name] for name in names if name in _OF_ENCODERS}
    free = [colour for colour in _PALETTE if colour not in fixed.values()]
    others = [name for name in names if name not in fixed]
    return scale | {name: fixed.get(name) or free[others.index(name) % len(free)] for name in names}


def _value(label: str) -> tuple[str, float]:
    """Sorts labels such as ``alpha = 0.5`` by their numbers, none first; other words stay in their order, last."""
    name, _, text = label.partition(" = ")
    try:
        return name, float(text.replace(",", ""))
    except ValueError:
        return name, -math.inf if text == "none" else math.inf
