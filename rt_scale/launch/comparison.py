"""What the comparison view of a sweep shows: names, axes and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.launch.search import known_points
from rt_scale.spec.axes import axis_names, value_label
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.metric_names import ProbeName
from rt_scale.spec.sweep import Point, SweepSpec
from rt_scale.store.board_view import BoardRun, build_sweep_board
from rt_scale.store.store import Store

OUT_DIM = "projector.out_dim"
WIDE = 1000
"""Ratio of its largest to its smallest positive value from which an axis is shown by its logarithm, too."""


def refresh_board(sweep: SweepSpec, points: Sequence[Point], store: Store) -> Path:
    """Make the sweep's TensorBoard view from its run directories; returns its folder."""
    folder, points = store.sweep(sweep.name).board, known_points(sweep, points, store)
    build_sweep_board(folder, board_runs(points, store), board_metrics(points))
    return folder


def board_runs(points: Sequence[Point], store: Store) -> list[BoardRun]:
    """The runs as the view names them: by the axes that have more than one value, and no other."""
    columns = {key: [point.values[key] for point in points] for key in (points[0].values if points else ())}
    varying = [key for key, column in columns.items() if len({repr(value) for value in column}) > 1]
    names = axis_names(varying)
    shown: dict[str, list[Any]] = {}
    for key in varying:
        shown |= _shown(key, names[key], columns[key])
    runs = []
    for position, point in enumerate(points):
        named = replace(point, values={key: point.values[key] for key in varying})
        values = {name: column[position] for name, column in shown.items()}
        runs.append(BoardRun(named.label, named.configuration, store.run(point.spec).path, values))
    return runs


def _shown(key: str, name: str, column: list[Any]) -> dict[str, list[Any]]:
    """An axis as columns of numbers or texts, spread so that parallel coordinates tell its values apart.

    TensorBoard draws every axis linearly at first, and offers no logarithm where a value is 0.
    """
    if key.endswith(OUT_DIM) and all(isinstance(value, int) and value.bit_count() == 1 for value in column):
        return {f"log2 {name}": [value.bit_length() - 1 for value in column]}
    if not all(isinstance(value, int | float) for value in column):
        return {name: [value_label(value) if isinstance(value, dict | list) else value for value in column]}
    positive = [value for value in column if value > 0]
    if min(column) < 0 or max(positive) < WIDE * min(positive):
        return {name: column}
    return {name: column, f"log10 {name}": [math.log10(value) if value > 0 else None for value in column]}


def board_metrics(points: Sequence[Point]) -> list[str]:
    """Tags that become columns of the HParams view, which shows the first five at first, and charts of means."""
    probed = list(
        dict.fromkeys(
            (kind, data)
            for main, probe in dict.fromkeys((_labelled(point.spec.data.name), point.spec.probe) for point in points)
            for data in (*([None] if main and probe.own else []), *probe.also)
            for kind in probe.kinds
        )
    )
    plain = [each for each in probed if not each[0].endswith("_standardized")]
    others = [each for each in probed if each not in plain]
    kinds = {point.spec.kind for point in points}
    tags = ["test/accuracy", "train/accuracy"] if "supervise" in kinds else []
    tags += [str(ProbeName(role, *each)) for each in plain for role in ("student", "teacher")]
    tags += (
        ["train/loss"] + (["train/kl"] if "distill" in kinds else []) + ["distance/from_init", "distance/from_teacher"]
    )
    tags += [str(ProbeName(role, *each)) for each in others for role in ("student", "teacher")]
    return tags + [str(ProbeName("input", *each)) for each in probed]


def _labelled(name: str) -> bool:
    """Whether the images of that set can be probed, as all can that are not known to have no labels."""
    return name != GAUSSIAN and (name not in DATASETS or DATASETS[name].labelled)
