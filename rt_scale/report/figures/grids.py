"""The gain over a sweep's axes: against one, with a line for each value of another, and over both as a map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from rt_scale.report.figures.panels import Drawing, Heatmap, drawings, in_order, ordered, students_are_teachers, way
from rt_scale.report.paper import Panel
from rt_scale.report.paper_numbers import value_text
from rt_scale.report.results import ProbedRun, Which
from rt_scale.report.statistics import DIFFERENCES, estimate
from rt_scale.spec.grid import axis_names, grouped

_NO_AXES = ("probe", "probed")
_SHORT = 18
"""Most characters of a name that stands below an axis."""


def gain_panels(runs: Sequence[ProbedRun], which: Which) -> list[Drawing | Heatmap]:
    """Maps of the gain over two axes, then the gain against one, of finished runs under one kind of probe.

    The first axis is the one of numbers with the most values. Each value of the other axes has its own panels. Empty
    if nothing varies but seeds, or all students are their teachers.
    """
    done = [run for run in runs if run.scores is not None]
    if students_are_teachers(done):
        return []
    axes = sorted(_axes(done), key=lambda key: _rank(key, done), reverse=True)
    if not axes:
        return []
    x, line = axes[0], axes[1] if len(axes) > 1 else "probe"
    scale = _scale([run.at[x] for run in done])
    against = drawings(Panel(x, line, metric="gain", scale=scale, label=axis_names([x])[x]), done, {}, which, None)
    if len(axes) == 1:
        return list(against)
    others = grouped(in_order(done, axes[2:]), lambda run: (way(run), *(repr(run.at.get(key)) for key in axes[2:])))
    ways = len({run.at["probed"] for run in done}) > 1
    maps = [_map(members, x, line, axes[2:], which, ways) for members in others.values()]
    if len(maps) == len(against):
        return [panel for pair in zip(maps, against, strict=True) for panel in pair]
    return [*maps, *against]


def _axes(runs: Sequence[ProbedRun]) -> list[str]:
    """What varies, without what follows from something else that does."""
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.at) if key not in _NO_AXES]
    keys = [key for key in keys if len({repr(run.at.get(key)) for run in runs}) > 1]

    def follows(key: str, other: str) -> bool:
        values = grouped(runs, lambda run: repr(run.at.get(other))).values()
        return all(len({repr(run.at.get(key)) for run in members}) == 1 for members in values)

    found = list(keys)
    for key, other in itertools.permutations(keys, 2):
        equal = follows(key, other) and follows(other, key)
        if (
            key in found
            and other in found
            and follows(key, other)
            and (not equal or keys.index(other) < keys.index(key))
        ):
            found.remove(key)
    return found


def _rank(key: str, runs: Sequence[ProbedRun]) -> tuple[bool, bool, int]:
    """Numbers come first, then short names, which alone can stand below an axis; of these the most values."""
    values = ordered(run.at.get(key) for run in runs)
    short = max(len(value_text(key, value)) for value in values) <= _SHORT
    return all(isinstance(value, int | float) for value in values), short, len(values)


def _scale(values: Sequence[Any]) -> Literal["linear", "log2", "log10", "names"]:
    """The scale on which the values lie most evenly."""
    places = ordered(values)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in places):
        return "names"
    if places[0] <= 0 or _unevenness(places) <= _unevenness([math.log(value) for value in places]):
        return "linear"
    return "log2" if all(math.log2(value).is_integer() for value in places) else "log10"


def _unevenness(places: Sequence[float]) -> float:
    """The widest gap's share of the whole."""
    return max(after - before for before, after in itertools.pairwise(places)) / (places[-1] - places[0])


def _map(
    runs: Sequence[ProbedRun], x: str, y: str, others: Sequence[str], which: Which, ways: bool
) -> Heatmap:  # fmt: skip
    columns, rows = (ordered(run.at.get(key) for run in runs) for key in (x, y))
    cells = grouped(runs, lambda run: (repr(run.at.get(y)), repr(run.at.get(x))))
    names = axis_names([x, y, *others])
    title = [f"{names[key]} {value_text(key, runs[0].at.get(key))}" for key in others]
    values, texts = [], []
    for row in rows:
        found = [_cell(cells.get((repr(row), repr(column)), ()), which) for column in columns]
        values.append([value for value, _ in found])
        texts.append([text for _, text in found])
    return Heatmap(
        ", ".join([*([way(runs[0])] if ways else []), *title]), names[x], names[y], "points",
        [value_text(x, value) for value in columns], [value_text(y, value) for value in rows], values, texts,
    )  # fmt: skip


def _cell(runs: Sequence[ProbedRun], which: Which) -> tuple[float, str]:
    """The mean gain in points, and its text, which is marked if its interval does not hold 0."""
    gains = [run.scores.student_at(which) - run.scores.teacher for run in runs if run.scores is not None]
    if not gains:
        return math.nan, "-"
    found = estimate(gains, DIFFERENCES)
    return 100 * found.mean, f"{100 * found.mean:+.1f}{f' {found.mark}' if found.mark else ''}"
