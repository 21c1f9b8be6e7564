"""Figures as data: panels of lines, which are means over seeds with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from rt_scale.report.paper import Panel
from rt_scale.report.paper_numbers import data_title, number_of, value_text
from rt_scale.report.results import ProbedRun, Series, Which, probe_metric
from rt_scale.report.statistics import DIFFERENCES, estimate
from rt_scale.spec.grid import axis_names, grouped
from rt_scale.spec.metrics import ACCURACY as PROBED
from rt_scale.spec.metrics import Bounds, metric_bounds

Style = Literal["ours", "others", "teacher", "input", "paper"]
ACCURACY, GAIN = "accuracy", "gain"
OF_PROBES = {ACCURACY: PROBED, GAIN: DIFFERENCES}
"""Metrics of a panel that each probe has: the student's accuracy, and that less its own teacher's -> bounds."""
FEW = 5
"""Of fewer seeds each is drawn."""
MANY = 24
"""So many curves of a panel are all named."""
BEST = 12
"""So many of more are: those whose students end best. The others are behind them, in one grey."""
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
        style: ``paper``: numbers that the paper prints; ``others``: curves without names, NaN between them.
        of: the label of the related line of style ``ours``; empty: none.
        low, high: ends of the means' intervals, NaN if there is none; empty: no intervals.
        seeds: the values of each seed, if there are few.
    """

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    style: Style = "ours"
    of: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    seeds: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Drawing:
    """The data of one panel.

    Attributes:
        scale: of the horizontal axis; ``log10_down`` falls to the right.
        bars: intervals are bars at the values of an axis of the sweep, not bands along a curve.
    """

    title: str
    x_label: str
    y_label: str
    scale: Literal["linear", "log2", "log10", "log10_down", "names"]
    lines: Sequence[Line] = field(default_factory=tuple)
    bars: bool = False


@dataclass(frozen=True)
class Heatmap:
    """The data of a panel of two axes: ``values`` by row and column, NaN where there is none, and their texts."""

    title: str
    x_label: str
    y_label: str
    label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]]


def drawings(
    panel: Panel,
    runs: Sequence[ProbedRun],
    metrics: Mapping[str, Series],
    which: Which,
    experiment: str | None,
    *,
    other_size: bool = False,
) -> list[Drawing]:
    """The drawings of a panel, one for each value of its column and each data set probed on.

    ``runs`` are under one kind of probe; ``metrics`` are by run; ``which`` is the student's epoch, unless the axis
    is the epoch; the numbers that the paper prints for ``experiment`` are added, named as those of another size with
    ``other_size``.
    """
    found = []
    if panel.metric not in OF_PROBES:  # measured once per run, not per probe
        runs = list({run.run: run for run in runs}.values())
    several = panel.metric in OF_PROBES and "probed" not in (panel.x, panel.line, panel.column)
    several = several and len({run.at["probed"] for run in runs}) > 1
    extra = _besides(panel, [run for run in runs if run.scores is not None])
    names = axis_names(extra)

    def title_of(run: ProbedRun) -> str:
        parts = [] if panel.column is None else [_column_title(panel.column, run)]
        parts += [way(run)] if several else []
        return ", ".join([*parts, *(f"{names[key]} {value_text(key, run.at.get(key))}" for key in extra)])

    order = [key for key in (panel.column, "probed" if several else None, *extra, panel.line) if key is not None]
    for title, members in grouped(in_order(runs, order), title_of).items():
        if panel.x == "epoch":
            lines = _over_epochs(panel, members, metrics)
        else:
            lines = _summary(panel, members, which, experiment, other_size)
        if any(line.x for line in lines):
            x_label = "epoch" if panel.x == "epoch" else panel.label or panel.x
            label = _LABELS.get(panel.metric, panel.metric)
            found.append(Drawing(title, x_label, label, panel.scale, lines, bars=panel.x != "epoch"))
    return found


def _column_title(key: str, run: ProbedRun) -> str:
    if key in ("data", "probed"):
        return way(run)
    return f"round {run.at[key]}" if key == "round" else value_text(key, run.at.get(key))


def way(run: ProbedRun) -> str:
    """The data set of a run, or with another that it is probed on ``CIFAR-10 → STL-10``."""
    distilled, probed = (data_title(run.at[key]) for key in ("data", "probed"))
    return probed if distilled == probed else f"{distilled} → {probed}"


def ordered(values: Iterable[Any]) -> list[Any]:
    """The distinct values, None first, then in numeric order if all others are numbers, else as they come."""
    found = list({repr(value): value for value in values}.values())
    numbers = [value for value in found if isinstance(value, int | float)]
    if len(numbers) + (None in found) < len(found):
        return found
    return [None] * (None in found) + sorted(numbers)


def in_order(runs: Sequence[ProbedRun], keys: Sequence[str]) -> list[ProbedRun]:
    """The runs, sorted by each of ``keys`` (of ``at``) as :func:`ordered` sorts its values."""
    found = list(runs)
    for key in reversed(keys):
        ranks = {repr(value): place for place, value in enumerate(ordered(run.at.get(key) for run in runs))}
        found.sort(key=lambda run, key=key, ranks=ranks: ranks[repr(run.at.get(key))])  # type: ignore[misc]
    return found


def _besides(panel: Panel, runs: Sequence[ProbedRun]) -> list[str]:
    """Keys, except seeds, that vary among the runs at one position of one line; each value gets its own panel."""
    places = [panel.line, panel.x, panel.column or "", "probed", *(["data"] if panel.column == "probed" else [])]
    spots = grouped(runs, lambda run: repr([run.at.get(key) for key in places]))
    keys = dict.fromkeys(key for run in runs for key in run.at)
    return [key for key in keys if any(len({repr(run.at.get(key)) for run in spot}) > 1 for spot in spots.values())]


def students_are_teachers(runs: Iterable[ProbedRun]) -> bool:
    """Whether every student has its teacher's accuracy, as where nothing is trained; then only teachers are shown."""
    scores = [run.scores for run in runs if run.scores is not None]
    return all(each.student == each.best == each.teacher for each in scores)


def _lines(panel: Panel, runs: Iterable[ProbedRun]) -> dict[str, list[ProbedRun]]:
    """The runs with scores, by the label of their line."""

    def label(run: ProbedRun) -> str:
        value = run.at.get(panel.line)
        name = "student" if panel.line == "probe" else value_text(panel.line, value)
        numeric = isinstance(value, int | float | list | tuple)
        return f"{axis_names([panel.line])[panel.line]} = {name}" if numeric else name

    return grouped((run for run in runs if run.scores is not None), label)


def _over_epochs(panel: Panel, runs: Sequence[ProbedRun], metrics: Mapping[str, Series]) -> list[Line]:
    found: dict[str, tuple[Sequence[float], Sequence[Sequence[float]]]] = {}
    members = _lines(panel, runs)
    for label, those in members.items():
        curves = [curve for run in those if (curve := _curve(panel.metric, run, metrics))]
        if curves:
            epochs = [epoch for epoch, _ in curves[0]]
            same = [[value for _, value in curve] for curve in curves if [epoch for epoch, _ in curve] == epochs]
            found[label] = epochs, list(zip(*same, strict=True))
    named = _named({label: members[label] for label in found})
    lines = [_line(label, *found[label], panel.metric) for label in named]
    if rest := [curve for label, curve in found.items() if label not in named]:
        lines.append(_others(rest, 100 if panel.metric in OF_PROBES else 1))
    ends = {label: (found[label][0][0], found[label][0][-1]) for label in named}
    if panel.metric == GAIN and named:
        lines.append(Line("teacher", ends[named[0]], [0, 0], "teacher"))
    if panel.metric == ACCURACY:
        lines += _references({label: (ends[label], members[label]) for label in named}, metrics)
    return lines


def _named(lines: Mapping[str, Sequence[ProbedRun]]) -> list[str]:
    """The labels of the curves that are named, in the order of ``lines``: all, or of many the best."""
    if len(lines) <= MANY:
        return list(lines)

    def ends(label: str) -> float:
        return fmean(run.scores.student_at("last") for run in lines[label] if run.scores is not None)

    best = set(sorted(lines, key=ends, reverse=True)[:BEST])
    return [label for label in lines if label in best]


def _others(curves: Sequence[tuple[Sequence[float], Sequence[Sequence[float]]]], factor: float) -> Line:
    """Mean curves as one line with gaps; each is of epochs and of every seed's values at each of them."""
    x = [place for epochs, _ in curves for place in (*epochs, math.nan)]
    y = [value for _, columns in curves for value in (*(factor * fmean(column) for column in columns), math.nan)]
    return Line(f"{len(curves):,} others", x, y, "others")


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
    single = len({len(column) for column in values}) == 1 and 1 < len(values[0]) < FEW
    seeds = [[factor * value for value in each] for each in zip(*values, strict=True)] if single else ()
    return Line(label, x, y, low=low, high=high, seeds=seeds)


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


def _summary(
    panel: Panel, runs: Sequence[ProbedRun], which: Which, experiment: str | None, other_size: bool
) -> list[Line]:
    found = []
    alone = students_are_teachers(runs)
    for label, members in _lines(panel, runs).items():
        spots = grouped((run for run in members if run.at.get(panel.x) is not None), lambda run: run.at[panel.x])
        order = ordered(spots)
        x = [value_text(panel.x, value) for value in order] if panel.scale == "names" else order
        scores = [[run.scores for run in spots[value] if run.scores is not None] for value in order]
        if panel.metric == GAIN:
            gains = [[each.student_at(which) - each.teacher for each in spot] for spot in scores]
            found.append(_line(label, x, gains, GAIN))
            continue
        label = "teacher" if alone and label == "student" else label
        found.append(_line(label, x, [[each.student_at(which) for each in spot] for spot in scores], ACCURACY))
        style: Style = "input" if alone else "teacher"
        means = [100 * fmean(getattr(each, style) for each in spot) for spot in scores]
        found.append(Line(style, x, means, style, "" if alone else label))
        printed = [(place, number_of(experiment, spots[value][0].at)) for place, value in zip(x, order, strict=True)]
        numbers = [(place, number) for place, number in printed if number is not None]
        role = "student" if any(number.student is not None for _, number in numbers) else "teacher"
        known = [(place, value) for place, number in numbers if (value := getattr(number, role)) is not None]
        if known:
            other = ["data"] * any(number.other_data for _, number in numbers) + ["size"] * other_size
            words = f"paper's {role}" + (f" (other {' and '.join(other)})" if other else "")
            places, values = zip(*known, strict=True)
            found.append(Line(words, places, values, "paper", label))
    if panel.metric == GAIN and found:
        ends = list(dict.fromkeys(place for line in found for place in line.x))
        found.append(Line("teacher", ends, [0.0] * len(ends), "teacher"))
    return found
