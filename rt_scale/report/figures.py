"""Draws the figures of a sweep: student and teacher over epochs, and the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from rt_scale.report.results import Series, probe_metric, probe_title
from rt_scale.report.statistics import estimate
from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.metrics import ACCURACY, Bounds, difference_bounds

MOST_PANELS = 8
Colour = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Curve:
    """One run's probes: accuracies in [0, 1] at increasing epochs, all [E]; the input has one number."""

    point: Point
    epochs: np.ndarray
    student: np.ndarray
    teacher: np.ndarray
    input: float


def curve(point: Point, metrics: Series, probe: str) -> Curve | None:
    """The run's curve under the probe of that key; None if it has none."""
    found = [metrics.get(probe_metric(role, probe)) for role in ("student", "teacher", "input")]
    student, teacher, pixels = found
    if not student or not teacher or not pixels:
        return None
    epochs, accuracies = np.array(sorted(student)).T
    return Curve(point, epochs, accuracies, np.array(sorted(teacher))[:, 1], pixels[-1][1])


def draw(curves: Sequence[Curve], probe: str, title: str) -> Figure:
    """Accuracy (top) and gain over the own teacher (bottom) over epochs: means over seeds with their intervals.

    The first axis of the sweep gives the colours; each combination of the others is a column.
    """
    panels: dict[str, list[Curve]] = {}
    for item in curves:
        panels.setdefault(_text(item.point, slice(1, None)), []).append(item)
    left_out = len(panels) - MOST_PANELS
    shown = list(panels.items())[:MOST_PANELS]
    width = max(6.0, 1.2 + 2.6 * len(shown))
    figure, axes = plt.subplots(2, len(shown), figsize=(width, 5.6), sharex=True, sharey="row", squeeze=False)
    colours = _colours([_text(item.point, slice(0, 1)) for item in curves])
    for column, (name, members) in enumerate(shown):
        _panel(axes[0][column], axes[1][column], members, colours)
        axes[0][column].set_title(name, fontsize=10)
        axes[1][column].set_xlabel("epoch")
    if axes[0][0].get_ylim()[0] < 0:  # the margin of the shared axis, known once all panels are drawn
        axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel("test accuracy (%)")
    axes[1][0].set_ylabel("gain over own teacher\n(percentage points)")
    more = f" ({left_out} more configurations not drawn)" if left_out > 0 else ""
    figure.suptitle(f"{title}: {probe_title(probe)}{more}", fontsize=11)
    rows = _legend(figure, colours, columns=max(2, int(width / 2)))
    figure.tight_layout(rect=(0, 0.045 * rows, 1, 0.98))
    return figure


def draw_drawings(panels: Sequence[Drawing], title: str, columns: int) -> Figure:
    """One of the paper's figures: panels (at least one) in rows of ``columns``, and a legend."""
    ours = dict.fromkeys(line.label for panel in panels for line in panel.lines if line.style == "ours")
    colours = _line_colours(list(ours))
    styles = {line.style: line.label for panel in panels for line in panel.lines if line.style != "ours"}
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], label=label, **{"color": "0.3", **_STYLES[style]}) for style, label in styles.items()]
    rows, width = -(-len(panels) // columns), max(6.4, 4.1 * columns)
    per_row = max(2, int(width / 2.4))
    legend = 0.2 + 0.2 * -(-len(handles) // per_row)
    height = 3.2 * rows + 0.4 + legend
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, panel, colours)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="lower center", ncols=per_row, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, legend / height, 1, 0.99))
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


def _text(point: Point, part: slice) -> str:
    names = axis_names(point.values)
    values = list(point.values.items())[part]
    return ", ".join(f"{names[key]} = {value_label(value)}" for key, value in values)


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


def _panel(accuracy: Axes, gain: Axes, members: Sequence[Curve], colours: Mapping[str, Colour]) -> None:
    groups: dict[str, list[Curve]] = {}
    for item in members:
        groups.setdefault(_text(item.point, slice(0, 1)), []).append(item)
    for name, group in groups.items():
        same = [item for item in group if len(item.epochs) == len(group[0].epochs)]
        students = np.stack([item.student for item in same])
        gains = students - np.stack([item.teacher for item in same])
        _band(accuracy, same[0].epochs, students, ACCURACY, colours[name])
        _band(gain, same[0].epochs, gains, difference_bounds(ACCURACY), colours[name])
    for epochs, accuracies in _teachers(members):
        accuracy.plot(epochs, 100 * accuracies, color="0.3", ls="--", lw=1.2)
    accuracy.axhline(100 * float(np.mean([item.input for item in members])), color="tab:red", ls=":", lw=1.2)
    gain.axhline(0, color="0.3", ls="--", lw=1.2)
    for axis in (accuracy, gain):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)


def _teachers(members: Sequence[Curve]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Epochs and mean accuracies of the teachers: over all if they are frozen, else per configuration."""
    longest = max((item.epochs for item in members), key=len)
    if all((item.teacher == item.teacher[0]).all() for item in members):
        distinct = {(item.point.seed, float(item.teacher[0])) for item in members}
        return [(longest, np.full(len(longest), np.mean([value for _, value in distinct])))]
    groups: dict[str, list[Curve]] = {}
    for item in members:
        groups.setdefault(item.point.configuration, []).append(item)
    found = []
    for group in groups.values():
        same = [item.teacher for item in group if len(item.epochs) == len(group[0].epochs)]
        found.append((group[0].epochs, np.mean(same, axis=0)))
    return found


def _band(axis: Axes, epochs: np.ndarray, values: np.ndarray, bounds: Bounds, colour: Colour) -> None:
    """Draw the mean of accuracies [seeds, epochs] in percent, and its interval."""
    summaries = [estimate(column.tolist(), bounds) for column in values.T]
    mean, low, high = (100 * np.array([getattr(item, part) for item in summaries], dtype=float)
                       for part in ("mean", "low", "high"))  # fmt: skip
    axis.plot(epochs, mean, color=colour, lw=1.8, marker="o", ms=3)
    axis.fill_between(epochs, low, high, color=colour, alpha=0.18, lw=0)


def _legend(figure: Figure, colours: Mapping[str, Colour], columns: int) -> int:
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=f"student{f', {name}' if name else ''}")
               for name, colour in colours.items()]  # fmt: skip
    handles.append(Line2D([], [], color="0.3", ls="--", label="teacher (mean)"))
    handles.append(Line2D([], [], color="tab:red", ls=":", label="input pixels"))
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9)
    return -(-len(handles) // columns)
