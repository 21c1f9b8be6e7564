"""TensorBoard: the comparison view of a sweep, in two derived folders that can be deleted.

The default one has a folder per configuration, with means over seeds and the values that the sweep varies. The other
has a folder per run, with links to its curves, and links to the means in ``mean``. In both, the folder ``sweep`` has
columns, charts and figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.util import tensor_util

from rt_scale.spec.differences import telling_keys
from rt_scale.spec.grid import grouped
from rt_scale.spec.metrics import parse_probe_name
from rt_scale.store.atomic import disk_errors, link_relatively, write_if_changed
from rt_scale.store.run_dir import EVENTS, METRICS
from rt_scale.system.files import remove
from rt_scale.tensorboard.means import EVERY, MARGIN, SEEDS, layout_summary, write_means
from rt_scale.tensorboard.settings import Setting, flat_settings, typed_columns
from rt_scale.tensorboard.writer import START, event_files, folder_name, renew_events, summary_file

EXPERIMENT = EVENTS + "0-sweep"
SWEEP = "sweep"
"""Folder of the columns, charts and figures of the whole sweep, and its name in TensorBoard."""
MEANS = "mean"
"""Folder of the configurations' curves in the view of runs, and the prefix of their names in TensorBoard."""

MOST_LINES = 5
"""Most lines that a margin chart shows at first, with their bands."""
COLOURS = 7
"""TensorBoard's colours, of which runs get one after the other, over and over."""
MOST_LISTED = 10
"""Most numbers of an axis that the HParams view lists one by one; beyond that, it offers a range."""
SEEDS_COLUMN = 4
"""Number of metrics before the number of seeds: the HParams view shows five columns at first."""


@dataclass(frozen=True)
class BoardRun:
    """A run in the view of a sweep; its folder need not exist yet.

    Attributes:
        label: its unique name there, e.g. ``alpha=0.5,seed=3``.
        group: name of its configuration; the runs of a group, its seeds, are averaged.
        values: axis of the sweep -> value; equal within a group.
    """

    label: str
    group: str
    folder: Path
    values: Mapping[str, object]


def build_means_board(
    board: Path, runs: Sequence[BoardRun], metrics: Sequence[str], charts: Sequence[str], figures: Mapping[str, Path]
) -> None:
    """Update the view of configurations; unchanged files are not read again.

    Args:
        board: a folder only for this view; other entries are removed.
        runs: the sweep's runs, in the order to list them and their configurations.
        metrics: tags of the scalars to average, which become columns of the HParams view.
        charts: those that have a margin chart.
        figures: tag -> PNG file; missing and unfinished files are omitted.

    Raises:
        ValueError: if two configurations have one name.
        InputError, RunError: if the disk refuses or is full.
    """
    groups = grouped(runs, lambda run: run.group)
    names = _folder_names(groups, {SWEEP})
    first = [members[0] for members in groups.values()]
    columns = [*metrics[:SEEDS_COLUMN], SEEDS, *metrics[SEEDS_COLUMN:]]
    _keep(board, {SWEEP, *names})
    few = first_lines(runs)
    _write_settings(board, names, first, columns, layout_summary(charts, every=len(few) < len(groups)))
    for name, (group, members) in zip(names, groups.items(), strict=True):
        prefixes = [MARGIN] * (group in few) + [EVERY] * (len(few) < len(groups))
        tables = [run.folder / METRICS for run in members]
        write_means(board / name, tables, metrics, dict.fromkeys(charts, prefixes))
    renew_events(board / SWEEP, "figures", figures, _images)


def build_runs_board(
    board: Path, means: Path, runs: Sequence[BoardRun], metrics: Sequence[str], charts: Sequence[str]
) -> None:
    """Update the view of single runs, as :func:`build_means_board`, whose view of the same runs is ``means``."""
    names = _folder_names([run.label for run in runs], {SWEEP, MEANS})
    groups = {folder_name(run.group) for run in runs}
    _keep(board, {SWEEP, MEANS, *names})
    every = len(first_lines(runs)) < len(groups)
    _write_settings(board, names, runs, metrics, layout_summary(charts, every=every))
    _link_events(means / SWEEP, board / SWEEP, EXPERIMENT)
    for name, run in zip(names, runs, strict=True):
        _link_events(run.folder, board / name, START)
    _keep(board / MEANS, groups)
    for group in groups:
        _link_events(means / group, board / MEANS / group)


def first_lines(runs: Sequence[BoardRun]) -> list[str]:
    """The configurations to show first in margin charts, in order: all, or up to ``MOST_LINES``.

    These differ from the first one in a single axis, the last of those with the most values, and are spread over it
    in distinct colours where that can be.
    """
    values = {run.group: run.values for run in runs}
    if len(values) <= MOST_LINES:
        return [*values]
    rows = [*values.values()]
    axes = telling_keys(list(dict.fromkeys(key for row in rows for key in row)), rows)
    axis = max(reversed(axes), key=lambda key: len({repr(row.get(key)) for row in rows}))
    others = [key for key in axes if key != axis]
    line = [place for place, row in enumerate(rows) if all(row.get(key) == rows[0].get(key) for key in others)]
    chosen: list[int] = []
    for wanted in (0, *range(MOST_LINES - 1, 0, -1))[: len(line)]:  # the ends of the axis first
        ideal, used = line[wanted * (len(line) - 1) // (MOST_LINES - 1)], {place % COLOURS for place in chosen}
        free = sorted(set(line) - {*chosen}, key=lambda place: (place % COLOURS in used, abs(place - ideal)))
        chosen.append(free[0])
    return [[*values][place] for place in sorted(chosen)]


def _link_events(source: Path, folder: Path, *own: str) -> None:
    """Link a run's event files except its settings, and keep the files ``own``; so HParams lists no mean twice."""
    files = {path.name: path for path in event_files(source) if path.name not in (START, EXPERIMENT)}
    _keep(folder, {*files, *own})
    for name, path in files.items():
        link_relatively(path, folder / name)


def _folder_names(labels: Iterable[str], taken: set[str]) -> list[str]:
    names = [folder_name(label) for label in labels]
    if len({*names, *taken}) < len(names) + len(taken):
        twice = sorted(name for name in {*names} if names.count(name) > 1 or name in taken)
        raise ValueError(f"labels must differ: {twice}")
    return names


def _keep(folder: Path, names: set[str]) -> None:
    """Make ``folder`` and remove all its entries but ``names``."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for entry in set(os.listdir(folder)) - names:
            remove(folder / entry)


def _write_settings(
    board: Path, names: Sequence[str], runs: Sequence[BoardRun], columns: Sequence[str], layout: Summary
) -> None:
    """Write the varied values of each run, and the columns and charts of the whole view."""
    settings = typed_columns([flat_settings(run.values) for run in runs])
    summary = _experiment(settings, columns)
    summary.MergeFrom(layout)
    write_if_changed(board / SWEEP / EXPERIMENT, summary_file(summary, 0.0))
    for position, (name, run) in enumerate(zip(names, runs, strict=True)):
        values = {key: column[position] for key, column in settings.items() if column[position] is not None}
        # Dated by position: TensorBoard sorts runs by start, and an unchanged view keeps its bytes.
        date = float(position + 1)
        summary = summary_v2.hparams_pb(values, trial_id=run.group, start_time_secs=date)
        write_if_changed(board / name / START, summary_file(summary, date))


def _experiment(settings: Mapping[str, Sequence[Setting | None]], columns: Sequence[str]) -> Summary:
    axes = [summary_v2.HParam(key, _domain(values)) for key, values in settings.items()]
    columns_shown = [summary_v2.Metric(tag, display_name=_short(tag)) for tag in columns]
    return summary_v2.hparams_config_pb(axes, columns_shown, time_created_secs=0.0)


def _short(metric: str) -> str:
    probe = parse_probe_name(metric)
    if probe is None:
        return metric
    return f"{probe.role} {probe.probe}" + (f" on {probe.data}" if probe.data else "")


def _domain(values: Sequence[Setting | None]) -> summary_v2.RealInterval | summary_v2.Discrete:
    given = {float(value) if type(value) is int else value for value in values if value is not None}
    numbers = [value for value in given if isinstance(value, float)]
    if len(numbers) > MOST_LISTED:
        return summary_v2.RealInterval(min(numbers), max(numbers))
    return summary_v2.Discrete(given)


def _images(figures: Mapping[str, Path]) -> list[Event]:
    events = []
    for tag, path in figures.items():
        data = path.read_bytes()
        try:
            with Image.open(BytesIO(data), formats=["PNG"]) as picture:
                size = [str(pixels).encode() for pixels in picture.size]
        except OSError:  # still being written
            continue
        value = Summary.Value(
            tag=tag,
            metadata=create_summary_metadata(display_name="", description=""),
            tensor=tensor_util.make_tensor_proto([*size, data]),
        )
        events.append(Event(wall_time=path.stat().st_mtime, step=0, summary=Summary(value=[value])))
    return events
