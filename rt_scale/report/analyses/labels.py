"""Students of trained teachers in a report: their test accuracy against that of students that learn labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rt_scale.report.analyses.base import Analysis, Asked, Picture, Table
from rt_scale.report.analyses.pruning import TEST
from rt_scale.report.results import EPOCH, NOTHING, Which
from rt_scale.report.statistics import DIFFERENCES, estimate
from rt_scale.spec.errors import counted
from rt_scale.spec.experiments.training import TrainingSpec, training
from rt_scale.spec.grid import Point, axis_names, grouped, value_label
from rt_scale.spec.metrics import ACCURACY, Bounds
from rt_scale.spec.part import json_text
from rt_scale.store.results import RunResult

if TYPE_CHECKING:
    from rt_scale.report.figures.panels import Drawing, Line

_TITLE = "Distillation against labels"
_CAPTION = (
    "Test accuracy of the student's own outputs in %, mean over seeds with the 95 % interval of the mean. The gain, in "
    "points, is over the student that learned the labels of the same images with the same seed."
)
_IN_COMMON = ("data", "encoder", "projector", "augment", "train")
_HOW = ("kind", "teacher.", "student.")
"""Beginnings of the axes by which learning labels and learning outputs differ."""


@dataclass(frozen=True)
class Compared:
    """A configuration of students of trained teachers: test accuracies in [0, 1] by seed, theirs, of students that
    learned labels, and of teachers; ``values`` are its axes by dotted field."""

    values: Mapping[str, Any]
    student: Mapping[int, float]
    labels: Mapping[int, float]
    teacher: Mapping[int, float]

    @property
    def gains(self) -> list[float]:
        """Student less labels, of the seeds that have both."""
        return [self.student[seed] - self.labels[seed] for seed in self.student if seed in self.labels]


def compared(asked: Asked) -> list[Compared]:
    """The finished configurations of students of trained teachers that have a counterpart that learns labels."""
    labelled = {_images(point): point for point in asked.points if _learns_labels(point)}
    distilled = [point for point in asked.points if _is_taught(point) and _images(point) in labelled]
    found = []
    for members in grouped(distilled, lambda point: point.configuration).values():
        student = {point.seed: _accuracy(asked.results.get(point.spec.name), asked.which) for point in members}
        labels = {
            point.seed: _accuracy(asked.results.get(labelled[_images(point)].spec.name), asked.which)
            for point in members
        }
        teacher = {point.seed: _accuracy(_teacher(point, asked), "last") for point in members}
        known = [{seed: value for seed, value in each.items() if value is not None}
                 for each in (student, labels, teacher)]  # fmt: skip
        if known[0]:
            found.append(Compared(members[0].values, *known))
    return found


def _learns_labels(point: Point) -> bool:
    spec = point.spec
    return isinstance(spec, TrainingSpec) and spec.learns_labels and spec.pruned is None


def _is_taught(point: Point) -> bool:
    spec = point.spec
    return isinstance(spec, TrainingSpec) and spec.classifies and not spec.learns_labels


def _images(point: Point) -> str:
    """What a student and its counterpart share, as a text."""
    return json_text([point.seed, *(getattr(point.spec, name) for name in _IN_COMMON)])


def _accuracy(result: RunResult | None, which: Which) -> float | None:
    if result is None or TEST not in result.last:
        return None
    best = result.best.get(TEST)
    return result.last[TEST] if which == "last" or best is None else best.value


def _teacher(point: Point, asked: Asked) -> RunResult | None:
    """The result of the run whose student teaches, if the store has it."""
    start = training(point.spec).teacher.start_from
    return None if start is None else asked.store.run(start.run).result()


def analysis(asked: Asked) -> Analysis | None:
    """What the report shows of such students; None without any."""
    rows = compared(asked)
    if not rows:
        return None
    keys = _choices(rows)
    names = axis_names(keys)
    cells = [[*names.values(), "seeds", "labels", "student", "gain", "teacher"]]
    cells += [[*(value_label(row.values[key]) for key in keys), *_cells(row)] for row in rows]
    said = f"{counted(len(rows), 'configuration')} of students of trained teachers; {EPOCH[asked.which]}."
    return Analysis(_TITLE, [said], _pictures(asked, rows, keys), [Table("labels", _CAPTION, cells)])


def _choices(rows: Sequence[Compared]) -> list[str]:
    """The axes that rows differ in, without those whose value follows from an axis before, as epochs from samples."""
    found: list[str] = []
    for key in rows[0].values:
        chosen = len({repr(row.values[key]) for row in rows}) > 1 and not key.endswith(".start_from")
        if chosen and not any(_follows(key, before, rows) for before in found):
            found.append(key)
    return found


def _follows(key: str, other: str, rows: Sequence[Compared]) -> bool:
    pairs = {(repr(row.values[other]), repr(row.values[key])) for row in rows}
    return len(pairs) == len({first for first, _ in pairs})


def _cells(row: Compared) -> list[str]:
    labels, student, teacher = (
        estimate(list(each.values()), ACCURACY).percent_interval if each else NOTHING
        for each in (row.labels, row.student, row.teacher)
    )
    gain = estimate(row.gains, DIFFERENCES) if row.gains else None
    return [str(len(row.student)), labels, student, NOTHING if gain is None else f"{gain.points} {gain.mark}", teacher]


def _pictures(asked: Asked, rows: Sequence[Compared], keys: Sequence[str]) -> list[Picture]:
    from rt_scale.report.figures.drawing import draw, save

    if not (drawn := panels(rows, keys)):
        return []
    svg, png = (asked.folder / f"labels.{form}" for form in ("svg", "png"))
    save(draw(drawn, _TITLE, 2), svg, png)
    return [Picture("labels", f"{_TITLE}: means over seeds with their 95 % intervals.", svg, png)]


def panels(rows: Sequence[Compared], keys: Sequence[str]) -> list[Drawing]:
    """The accuracies of both, in %, over the first of the axes ``keys`` that is of numbers and of both, and the gains.

    None without such an axis.
    """
    from rt_scale.report.figures.panels import Drawing, mean_line

    places = [key for key in keys if not key.startswith(_HOW) and all(_number(row.values[key]) for row in rows)]
    if not places:
        return []
    x, others = places[0], [key for key in keys if key != places[0]]
    names = axis_names(keys)
    lines = grouped(rows, lambda row: ", ".join(f"{names[key]} = {value_label(row.values[key])}" for key in others))

    def line(label: str, members: Sequence[Compared], values: Sequence[Sequence[float]], bounds: Bounds) -> Line:
        there = [(row.values[x], each) for row, each in zip(members, values, strict=True) if each]
        ordered = sorted(there, key=lambda pair: pair[0])
        return mean_line(label, [at for at, _ in ordered], [each for _, each in ordered], bounds, 100)

    first = next(iter(lines.values()))
    accuracies = [line("labels", first, [[*row.labels.values()] for row in first], ACCURACY)]
    accuracies += [
        line(label or "student", members, [[*row.student.values()] for row in members], ACCURACY)
        for label, members in lines.items()
    ]
    gains = [
        line(label or "student", members, [row.gains for row in members], DIFFERENCES)
        for label, members in lines.items()
    ]
    return [
        Drawing("", names[x], "test accuracy (%)", "log2", accuracies, bars=True),
        Drawing("", names[x], "gain over labels (points)", "log2", gains, bars=True),
    ]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
