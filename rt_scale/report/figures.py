"""Figures: panels of lines, means over seeds with their intervals, first as data, then drawn under one legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rt_scale.report.paper import Panel
from rt_scale.report.paper_numbers import data_title, number_of, value_text
from rt_scale.report.results import ProbedRun, Series, Which, probe_metric
from rt_scale.report.statistics import DIFFERENCES, estimate
from rt_scale.spec.grid import axis_names, grouped
from rt_scale.spec.metrics import ACCURACY as PROBED
from rt_scale.spec.metrics import Bounds, metric_bounds

Colour = str | tuple[float, float, float, float]
Style = Literal["ours", "teacher", "input", "paper"]
ACCURACY, GAIN = "accuracy", "gain"
OF_PROBES = {ACCURACY: PROBED, GAIN: DIFFERENCES}
"""Metrics of a panel that each probe has: the student's accuracy, and that less its own teacher's -> bounds."""
_LABELS = {
    "train/kl": "KL divergence (training)",
    "distance/from_init": "distance from start",
    ACCURACY: "probing accuracy (%)",
    GAIN: "gain over own teacher (points)",
}


@dataclass(frozen=True)
class Line:
    """One line of a panel: means over seeds ``y`` at ``x``, which are names if the panel's scale is ``names``.

    Attributes:
        label: for the legend.
        style: ``paper`` is for the numbers that the paper prints.
        of: the label of the related line of style ``ours``; empty: none.
        low, high: ends of the means' intervals, NaN if there is none; empty: no intervals.
    """

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    style: Style = "ours"
    of: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Drawing:
    """The data of one panel; ``scale`` is that of the horizontal axis, ``log10_down`` falls to the right."""

    title: str
    x_label: str
    y_label: str
    scale: Literal["linear", "log2", "log10", "log10_down", "names"]
    lines: Sequence[Line] = field(default_factory=tuple)


def drawings(
    panel: Panel, runs: Sequence[ProbedRun], metrics: Mapping[str, Series], which: Which, experiment: str | None
) -> list[Drawing]:
    """The drawings of a panel, one for each value of its column and each data set probed on.

    ``runs`` are under one kind of probe; ``metrics`` are by run; ``which`` is the student's epoch, unless the axis
    is the epoch; the numbers that the paper prints for ``experiment`` are added.
    """
    found = []
    if panel.metric not in OF_PROBES:  # measured once per run, not per probe
        runs = list({run.run: run for run in runs}.values())
    several = panel.metric in OF_PROBES and "probed" not in (panel.x, panel.line)
    several = several and len({run.at["probed"] for run in runs}) > 1
    extra = _besides(panel, [run for run in runs if run.scores is not None])

    def title_of(run: ProbedRun) -> str:
        column = panel.column
        parts = [] if column is None else ["round " * (column == "round") + value_text(column, run.at[column])]
        parts += [data_title(run.at["probed"])] if several else []
        return ", ".join([*parts, *(f"{key} {value_text(key, run.at.get(key))}" for key in extra)])

    for title, members in grouped(runs, title_of).items():
        if panel.x == "epoch":
            lines = _over_epochs(panel, members, metrics)
        else:
            lines = _summary(panel, members, which, experiment)
        if any(line.x for line in lines):
            x_label = "epoch" if panel.x == "epoch" else panel.label or panel.x
            found.append(Drawing(title, x_label, _LABELS.get(panel.metric, panel.metric), panel.scale, lines))
    return found


def _besides(panel: Panel, runs: Sequence[ProbedRun]) -> list[str]:
    """Keys, except seeds, that vary among the runs at one position of one line; each value gets its own panel."""
    places = (panel.line, panel.x, panel.column or "", "probed")
    spots = grouped(runs, lambda run: repr([run.at.get(key) for key in places]))
    keys = dict.fromkeys(key for run in runs for key in run.at)
    return [key for key in keys if any(len({repr(run.at.get(key)) for run in spot}) > 1 for spot in spots.values())]


def _lines(panel: Panel, runs: Iterable[ProbedRun]) -> dict[str, list[ProbedRun]]:
    """The runs with scores, by the label of their line."""

    def label(run: ProbedRun) -> str:
        value = run.at.get(panel.line)
        name = "student" if panel.line == "probe" else value_text(panel.line, value)
        numeric = isinstance(value, int | float | list | tuple)
        return f"{axis_names([panel.line])[panel.line]} = {name}" if numeric else name

    return grouped((run for run in runs if run.scores is not None), label)


def _over_epochs(panel: Panel, runs: Sequence[ProbedRun], metrics: Mapping[str, Series]) -> list[Line]:
    lines, teachers = [], {}
    for label, members in _lines(panel, runs).items():
        curves = [curve for run in members if (curve := _curve(panel.metric, run, metrics))]
        if not curves:
            continue
        epochs = [epoch for epoch, _ in curves[0]]
        same = [[value for _, value in curve] for curve in curves if [epoch for epoch, _ in curve] == epochs]
        lines.append(_line(label, epochs, list(zip(*same, strict=True)), panel.metric))
        teachers[label] = (epochs[0], epochs[-1]), members
    if panel.metric == GAIN and teachers:
        ends = next(iter(teachers.values()))[0]
        lines.append(Line("teacher", ends, [0, 0], "teacher"))
    return lines + (_references(teachers, metrics) if panel.metric == ACCURACY else [])


def _curve(metric: str, run: ProbedRun, metrics: Mapping[str, Series]) -> Sequence[tuple[float, float]]:
    student = run.scores.curve if run.scores is not None else ()
    if metric == ACCURACY:
        return student
    if metric == GAIN:
        teacher = dict(_teacher_curve(run, metrics))
        return [(epoch, value - teacher[epoch]) for epoch, value in student if epoch in teacher]
    return metrics.get(run.run, {}).get(metric, ())


def _line(label: str, x: Sequence[Any], values: Sequence[Sequence[float]], metric: str) -> Line:
    """The means at every position; accuracies and gains in percent."""
    if metric in OF_PROBES:
        return mean_line(label, x, values, OF_PROBES[metric], 100)
    return mean_line(label, x, values, metric_bounds(metric))


def mean_line(
    label: str, x: Sequence[Any], values: Sequence[Sequence[float]], bounds: Bounds, factor: float = 1
) -> Line:
    """The means at every position with their intervals, of values within ``bounds``, drawn times ``factor``."""
    summaries = [estimate(column, bounds) for column in values]
    parts = [[getattr(each, part) for each in summaries] for part in ("mean", "low", "high")]
    y, low, high = ([math.nan if value is None else factor * value for value in part] for part in parts)
    return Line(label, x, y, low=low, high=high)


def _references(
    lines: Mapping[str, tuple[tuple[float, float], Sequence[ProbedRun]]], metrics: Mapping[str, Series]
) -> list[Line]:
    """Teachers and input pixels as horizontal lines, one if all are equal; moving teachers as curves."""
    found = []
    moving = {label: curve for label, (_, runs) in lines.items() if (curve := _moving_teacher(runs, metrics))}
    for label, (epochs, accuracies) in moving.items():
        found.append(Line("teacher", epochs, accuracies, "teacher", label))
    for style in ("teacher", "input"):
        still = {label: runs for label, (_, runs) in lines.items() if style == "input" or label not in moving}
        means = {label: 100 * fmean(getattr(run.scores, style) for run in runs) for label, runs in still.items()}
        common = len({round(mean, 6) for mean in means.values()}) == 1
        for label, mean in list(means.items())[: 1 if common else None]:
            ends = lines[label][0]
            found.append(Line(style, ends, [mean, mean], style, "" if common else label))
    return found


def _moving_teacher(
    runs: Sequence[ProbedRun], metrics: Mapping[str, Series]
) -> tuple[Sequence[float], Sequence[float]] | None:
    """Epochs and mean accuracies in percent of teachers that change; None if they do not."""
    curves = [_teacher_curve(run, metrics) for run in runs]
    if not any(len({value for _, value in curve}) > 1 for curve in curves):
        return None
    epochs = [epoch for epoch, _ in curves[0]]
    same = [[value for _, value in curve] for curve in curves if [epoch for epoch, _ in curve] == epochs]
    return epochs, [100 * fmean(column) for column in zip(*same, strict=True)]


def _teacher_curve(run: ProbedRun, metrics: Mapping[str, Series]) -> Sequence[tuple[float, float]]:
    key = run.at["probe"] if run.at["probed"] == run.at["data"] else f"{run.at['probe']}@{run.at['probed']}"
    return metrics.get(run.run, {}).get(probe_metric("teacher", key), ())


def _summary(panel: Panel, runs: Sequence[ProbedRun], which: Which, experiment: str | None) -> list[Line]:
    found = []
    for label, members in _lines(panel, runs).items():
        spots = grouped((run for run in members if run.at.get(panel.x) is not None), lambda run: run.at[panel.x])
        order = list(spots) if panel.scale == "names" else sorted(spots)
        x = [value_text(panel.x, value) for value in order] if panel.scale == "names" else order
        scores = [[run.scores for run in spots[value] if run.scores is not None] for value in order]
        students = [[each.student_at(which) for each in spot] for spot in scores]
        found.append(_line(label, x, students, ACCURACY))
        teachers = [100 * fmean(each.teacher for each in spot) for spot in scores]
        found.append(Line("teacher", x, teachers, "teacher", label))
        printed = [(place, number_of(experiment, spots[value][0].at)) for place, value in zip(x, order, strict=True)]
        role = (
            "student" if any(number is not None and number.student is not None for _, number in printed) else "teacher"
        )
        known = [(place, value) for place, number in printed if (value := getattr(number, role, None)) is not None]
        if known:
            places, numbers = zip(*known, strict=True)
            found.append(Line(f"paper's {role}", places, numbers, "paper", label))
    return found


def draw(panels: Sequence[Drawing], title: str, columns: int, *, same_heights: bool = False) -> Figure:
    """Panels (at least one) in rows of ``columns``, and a legend; with ``same_heights`` a row shares its axis."""
    ours = dict.fromkeys(line.label for panel in panels for line in panel.lines if line.style == "ours")
    colours = _line_colours(list(ours))
    styles = {line.style: line.label for panel in panels for line in panel.lines if line.style != "ours"}
    handles = [Line2D([], [], color=colour, marker="o", ms=3, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], label=label, **{"color": "0.3", **_STYLES[style]}) for style, label in styles.items()]
    rows, width = -(-len(panels) // columns), max(6.4, (4.1 if columns < 4 else 3.2) * columns)
    figure = Figure((width, 3.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey="row" if same_heights else False)
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
    if panel.scale == "log10_down":
        _count_down(axis, sorted({x for line in panel.lines for x in line.x}, reverse=True))
    axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
    if axis.get_ylim()[0] < 0 <= min((min(line.y) for line in panel.lines if len(line.y)), default=0):
        axis.set_ylim(bottom=0)  # the margin of the axis is below possible values
    axis.set_title(panel.title, fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _count_down(axis: Axes, places: Sequence[float]) -> None:
    """An axis from the first place down to the last, with a tick about every halving."""
    ticks = [places[0]]
    for place in places[1:]:
        if place < 0.6 * ticks[-1]:
            ticks.append(place)
    axis.invert_xaxis()
    axis.set_xticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axis.minorticks_off()


def _interval(axis: Axes, x: Sequence[float], line: Line, colour: Colour, bars: bool) -> None:
    if not len(line.low):
        return
    mean, low, high = (np.asarray(each, float) for each in (line.y, line.low, line.high))
    if bars:
        axis.errorbar(x, mean, np.stack((mean - low, high - mean)), fmt="none", ecolor=colour, capsize=3, lw=1.2)
    else:
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def save(figure: Figure, *paths: Path) -> None:
    """Write the figure to all ``paths``; the suffix gives the format."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Text in SVG stays text: smaller and searchable. The fixed salt and the missing date make files reproducible.
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "rt-scale"}):
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _line_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """A colour scale for numbers, distinct colours for names; red is reserved for the input."""
    numbers = [label for label in labels if " = " in label]
    names = [label for label in labels if label not in numbers]
    palette = [f"tab:{name}" for name in ("blue", "orange", "green", "purple", "brown", "pink", "olive", "cyan")]
    shades = np.linspace(0.05, 0.85, len(numbers)).tolist()
    scale = {name: colormaps["viridis"](shade) for name, shade in zip(numbers, shades, strict=True)}
    return scale | {name: palette[place % len(palette)] for place, name in enumerate(names)}
