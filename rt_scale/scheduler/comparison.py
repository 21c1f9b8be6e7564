"""Names, axes and metrics of a sweep's comparison view."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rt_scale.data.catalogue import DATASETS
from rt_scale.spec.differences import told_apart
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.metrics import ProbeName, is_constant, parse_extra_name, parse_probe_name
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.tensorboard.sweep_view import BoardRun, build_means_board, build_runs_board
from rt_scale.tensorboard.writer import folder_name

SWEEP = "sweep"
"""The axis that distinguishes sweeps in one view."""
WIDE = 1000
"""From this ratio of largest to smallest positive value, an axis is also shown by its logarithm."""


def refresh_board(sweeps: Sequence[SweepRuns], *, every_run: bool = False) -> Path:
    """Write the TensorBoard view of sweeps from their run directories; returns its folder, in the first sweep's.

    Args:
        sweeps: at least one, of one store; if several, their names are the first axis.
        every_run: whether to show single runs instead of configurations.
    """
    names = [sweep.name for sweep in sweeps]
    points = all_points(sweeps)
    store = sweeps[0].store
    runs, metrics = board_runs(points, store), [*board_metrics(points), *_other_metrics(points, store)]
    moving = any(spec.teacher.moves for spec in (point.spec for point in points) if isinstance(spec, TrainingSpec))
    charts = [name for name in metrics if not is_constant(name, frozen_teacher=not moving)]
    folder = sweeps[0].folder.board
    if len(names) > 1:
        folder = folder.with_name(folder_name("-".join([folder.name, "with", *names[1:]])))
    build_means_board(folder, runs, metrics, charts, board_figures(sweeps))
    if not every_run:
        return folder
    single = folder.with_name(f"{folder.name}-runs")
    build_runs_board(single, folder, runs, metrics, charts)
    return single


def all_points(sweeps: Sequence[SweepRuns]) -> list[Point]:
    """The runs of all sweeps, with the sweep's name as their first axis."""
    return [replace(point, values={SWEEP: sweep.name, **point.values}) for sweep in sweeps for point in sweep.points]


def board_figures(sweeps: Sequence[SweepRuns]) -> dict[str, Path]:
    """The figures in the sweeps' reports, by displayed name."""
    found = {}
    for name, sweep in ((each.name, each.folder) for each in sweeps):
        # The view of a read-only store is written elsewhere, but shows the store's report.
        for folder in dict.fromkeys([sweep.path / sweep.report.name, sweep.report]):
            for path in sorted(folder.rglob("*.png")):
                figure = path.relative_to(folder).with_suffix("").as_posix()
                found[f"figures/{figure}" if len(sweeps) == 1 else f"figures of {name}/{figure}"] = path
    return found


def board_runs(points: Sequence[Point], store: Store) -> list[BoardRun]:
    """The runs in the order of their axes' values, named by the axes in which they differ.

    Names begin with the number of the configuration: TensorBoard sorts them as texts, ``1e-10`` after ``0.5``.
    """
    axes = {key: None for point in points for key in point.values}
    columns = {key: [point.values[key] for point in points if key in point.values] for key in axes}
    varying = [key for key, column in columns.items() if len({repr(value) for value in column}) > 1]
    varying = varying or [key for key in axes if key != SWEEP]
    # Axes that follow from those before them, as in a zip, are in no name.
    pairs = list(zip(points, told_apart(points, varying), strict=True))
    places = {key: _places(columns[key]) for key in varying}
    pairs.sort(key=lambda pair: [places[key].get(repr(pair[0].values.get(key)), -1) for key in varying])
    numbers = {name: number for number, name in enumerate(dict.fromkeys(named.configuration for _, named in pairs), 1)}
    width = len(str(len(numbers))) if len(numbers) > 1 else 0
    names, runs = axis_names(varying), []
    for point, named in pairs:
        number = f"{numbers[named.configuration]:0{width}} " if width else ""
        shown: dict[str, object] = {}
        for key in (key for key in varying if key in point.values):
            shown |= _shown(names[key], point.values[key], columns[key])
        path = store.run(point.spec).path
        runs.append(BoardRun(f"{number}{named.label}", f"{number}{named.configuration}", path, shown))
    return runs


def _places(column: Iterable[object]) -> dict[str, int]:
    """Place of each value, by its ``repr``, on its axis: numbers by size, then others as the sweep has them."""
    values = {repr(value): value for value in column}
    size = {key: value if isinstance(value, int | float) else math.inf for key, value in values.items()}
    return {key: place for place, key in enumerate(sorted(values, key=lambda key: size[key]))}


def _shown(name: str, value: object, column: Sequence[Any]) -> dict[str, object]:
    """A value of an axis, and its logarithm where parallel coordinates do not tell the values of the axis apart.

    TensorBoard draws axes linearly at first, and offers no logarithmic scale if a value is 0.
    """
    if not all(isinstance(each, int | float) for each in column):
        return {name: value_label(value) if isinstance(value, dict | list) else value}
    positive = [each for each in column if each > 0]
    number = cast(float, value)
    if name.endswith("out_dim") and all(isinstance(each, int) and each.bit_count() == 1 for each in column):
        return {name: number, f"{name} (log2)": math.log2(number)}
    if not positive or min(column) < 0 or max(positive) < WIDE * min(positive):
        return {name: value}
    return {name: value, f"{name} (log10)": math.log10(number) if number > 0 else None}


FIRST = ("test/accuracy", "train/accuracy")
PLAIN = ("train/loss", "train/kl", "distance/from_init", "distance/from_teacher")
"""Metrics of trainings shown before and after those of probes; the others are not shown."""


def board_metrics(points: Sequence[Point]) -> list[str]:
    """Tags for the HParams columns, of which TensorBoard shows the first five at first, and for charts of means."""
    of_trainings: dict[str, None] = {}
    others: dict[str, None] = {}
    for spec in (point.spec for point in points):
        labelled = _labelled(spec.main_set)
        shown = dict.fromkeys(name for name in spec.logged if labelled or not _of_own_set(name))
        if isinstance(spec, TrainingSpec):
            of_trainings |= shown
        else:
            others |= shown
    return [*_in_order(of_trainings), *others]


def _other_metrics(points: Sequence[Point], store: Store) -> list[str]:
    """What the finished runs of kinds that announce no metrics have logged."""
    results = (store.run(point.spec).result() for point in points if not point.spec.logged)
    return list(dict.fromkeys(name for result in results if result is not None for name in result.last))


def _in_order(names: Iterable[str]) -> list[str]:
    """The metrics of trainings that are shown, in order."""
    there = list(names)
    parsed = [probe for name in there if (probe := parse_probe_name(name)) is not None]
    probed = list(dict.fromkeys((each.probe, each.data) for each in parsed))
    plain = [each for each in probed if not each[0].endswith("_standardized")]
    tags = [*FIRST, *(str(ProbeName(role, *each)) for each in plain for role in ("student", "teacher")), *PLAIN]
    rest = [each for each in probed if each not in plain]
    tags += [str(ProbeName(role, *each)) for each in rest for role in ("student", "teacher")]
    tags += [str(ProbeName("input", *each)) for each in probed]
    return [*(tag for tag in tags if tag in there), *filter(parse_extra_name, there)]


def _of_own_set(name: str) -> bool:
    probe = parse_probe_name(name) or parse_extra_name(name)
    return probe is not None and probe.data is None


def _labelled(name: str) -> bool:
    """Whether that data set has labels to probe with; an unknown one is assumed to have some."""
    return name not in DATASETS or DATASETS[name].labelled
