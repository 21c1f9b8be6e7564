"""TensorBoard: the comparison view of a sweep.

The view has a folder for each run: settings limited to what the sweep varies and grouped over its
seeds, beside links to the run's curves and end; and a folder for each configuration, with means over
its seeds. So a run can be part of many sweeps, and a view is always derived: it can be removed and
built again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import summary_v2

from rt_scale.spec.metric_names import parse_probe_name
from rt_scale.store.atomic import disk_errors, link_relatively, remove, write_if_changed
from rt_scale.store.board import END, PREFIX, SCALARS, START, summary_file
from rt_scale.store.board_means import layout_summary, write_means
from rt_scale.store.run_dir import METRICS
from rt_scale.store.settings import Setting, flat_settings, folder_name, typed_columns

EXPERIMENT = PREFIX + "0-sweep"
MEANS = "mean"
"""Folder of the configurations' runs, and so the first part of their names."""

MOST_LISTED = 10
"""Numbers of an axis that are offered one by one to choose from; of more, a range."""


@dataclass(frozen=True)
class BoardRun:
    """A run in the view of a sweep.

    Attributes:
        label: its name there, unique, e.g. ``alpha=0.5,seed=3``.
        group: name of its configuration; runs of one group, the seeds, are averaged.
        folder: the run's folder; it need not exist yet.
        values: what the sweep varies: axis -> value; equal within a group.
    """

    label: str
    group: str
    folder: Path
    values: Mapping[str, Any]


def build_sweep_board(board: Path, runs: Sequence[BoardRun], metrics: Sequence[str]) -> None:
    """Bring the view in the folder ``board`` up to date; cheap where little has changed.

    Args:
        board: a folder that is for this alone; what does not belong to the view is removed.
        runs: the sweep's runs, in the order in which they are listed.
        metrics: tags of the scalars that become columns of the HParams view and charts of means.

    Raises:
        ValueError: where two runs have one label.
        InputError, RunError: where the disk refuses or is full.
    """
    names = [folder_name(run.label) for run in runs]
    if len({*names, MEANS}) <= len(names):
        raise ValueError(
            f"labels must differ: {sorted(name for name in names if names.count(name) > 1 or name == MEANS)}"
        )
    columns = typed_columns([flat_settings(run.values) for run in runs])
    groups: dict[str, list[Path]] = {}
    for run in runs:
        groups.setdefault(folder_name(run.group), []).append(run.folder / METRICS)
    _keep(board, {EXPERIMENT, MEANS, *names})
    _keep(board / MEANS, set(groups))
    summary = _experiment(columns, metrics)
    summary.MergeFrom(layout_summary(metrics))
    write_if_changed(board / EXPERIMENT, summary_file(summary, 0.0))
    for position, (name, run) in enumerate(zip(names, runs, strict=True)):
        values = {key: column[position] for key, column in columns.items() if column[position] is not None}
        # Dated by position: TensorBoard lists runs by their start, and an unchanged view keeps its bytes.
        date = float(position + 1)
        summary = summary_v2.hparams_pb(values, trial_id=run.group, start_time_secs=date)
        write_if_changed(board / name / START, summary_file(summary, date))
        for file in (SCALARS, END):
            link_relatively(run.folder / file, board / name / file)
    for name, tables in groups.items():
        write_means(board / MEANS / name, tables, metrics)


def _keep(folder: Path, names: set[str]) -> None:
    """Make ``folder`` and remove what is in it but for ``names``."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in set(os.listdir(folder)) - names:
            remove(folder / entry)


def _experiment(columns: Mapping[str, Sequence[Setting | None]], metrics: Sequence[str]) -> Any:
    """The record that declares every axis with its domain, and every metric."""
    axes = [summary_v2.HParam(key, _domain(column)) for key, column in columns.items()]
    columns_shown = [summary_v2.Metric(tag, display_name=_short(tag)) for tag in metrics]
    return summary_v2.hparams_config_pb(axes, columns_shown, time_created_secs=0.0)


def _short(metric: str) -> str:
    """A metric's name as the title of a narrow column, e.g. ``student linear``."""
    probe = parse_probe_name(metric)
    if probe is None:
        return metric
    return f"{probe.role} {probe.probe}" + (f" on {probe.data}" if probe.data else "")


def _domain(column: Sequence[Setting | None]) -> Any:
    values = {float(value) if type(value) is int else value for value in column if value is not None}
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) > MOST_LISTED:
        return summary_v2.RealInterval(min(numbers), max(numbers))
    return summary_v2.Discrete(values)
