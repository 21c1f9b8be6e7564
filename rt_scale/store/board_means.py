"""TensorBoard: a run for every configuration of a sweep, with means over seeds, and the charts that show them.

The run of a configuration has each mean under the metric's own name, so that it is drawn among its
seeds, and once more, with the ends of its interval, under names of their own: a margin chart wants
three curves, and complains of runs that have some but not all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util import tensor_util

from rt_scale.spec.errors import RunError
from rt_scale.spec.metric_names import parse_probe_name
from rt_scale.store.atomic import remove, write_bytes
from rt_scale.store.board import PREFIX, event_file
from rt_scale.store.mean_curves import MeanCurve, mean_curves
from rt_scale.store.metrics import read_metrics

MARGIN = "with interval"
"""First part of the names of curves that are there for the margin charts; TensorBoard lists it last."""

_PROBES = {"linear": "linear probe", "knn": "kNN probe"}


def write_means(folder: Path, tables: Sequence[Path], metrics: Sequence[str]) -> None:
    """Bring the run of a configuration up to date; where no table has changed, none is read.

    Args:
        folder: the run's folder, for this alone.
        tables: the metrics tables of its seeds; those of seeds that have not begun need not exist.
        metrics: names of the metrics that are averaged.

    Raises:
        InputError, RunError: where the disk refuses or is full.
    """
    found = [(path, path.stat()) for path in tables if path.exists()]
    state = [(path.parent.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]
    newest = max((mtime for *_, mtime in state), default=0)
    # A server that is showing the run never looks again at a file that it has read: changed means are a new file,
    # whose name is later, and whose first record takes back what the one before it said.
    kind = f"{PREFIX}2-mean-{_digest(list(metrics))}-"
    name = f"{kind}{newest:020d}-{_digest(state)}"
    if (folder / name).exists():
        return
    try:
        columns = [read_metrics(path).to_pydict() for path, _ in found]
    except RunError:  # A damaged table is told of by all that needs it; a view does without its mean.
        columns = []
    curves = mean_curves([table for table in columns if table["step"]], metrics)
    if not curves:
        remove(folder)
        return
    write_bytes(folder / name, event_file(_events(curves), 0.0))
    earlier = [path.name for path in folder.iterdir() if path.name.startswith(kind) and path.name < name]
    # The server may be in the middle of the one before.
    for path in folder.iterdir():
        if path.name not in (name, max(earlier, default=name)):
            remove(path)


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def _events(curves: Mapping[str, MeanCurve]) -> list[Any]:
    restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    points: dict[int, tuple[float, Any]] = {}
    for tag, curve in curves.items():
        lower, upper = curve.mean - curve.half, curve.mean + curve.half
        for step, time, *values in zip(curve.steps, curve.times, curve.mean, lower, upper, strict=True):
            _, summary = points.setdefault(int(step), (float(time), summary_pb2.Summary()))
            for name, value in zip((tag, *margin_tags(tag)), (values[0], *values), strict=True):
                summary.MergeFrom(scalar_pb(name, value))
    events = [
        event_pb2.Event(wall_time=time, step=step, summary=summary) for step, (time, summary) in sorted(points.items())
    ]
    return [event_pb2.Event(wall_time=0.0, step=0, session_log=restart), *events]


def margin_tags(metric: str) -> tuple[str, str, str]:
    """Names of the curves that a margin chart of ``metric`` is made of: mean, lower and upper end."""
    return f"{MARGIN}/{metric}/mean", f"{MARGIN}/{metric}/lower", f"{MARGIN}/{metric}/upper"


def layout_summary(metrics: Sequence[str]) -> Any:
    """The summary that lays out a margin chart for each of ``metrics``, by what they measure."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(_group(metric), []).append(metric)
    categories = [  # TensorBoard draws the charts of a category in the reverse order.
        layout_pb2.Category(title=title, chart=[_chart(metric) for metric in reversed(members)])
        for title, members in groups.items()
    ]
    summary = summary_pb2.Summary()
    summary.value.add(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(layout_pb2.Layout(category=categories).SerializeToString()),
    )
    return summary


def _group(metric: str) -> str:
    probe = parse_probe_name(metric)
    if probe is None:
        return "distances" if metric.startswith("distance/") else "loss"
    kind = probe.probe.partition("_")[0]
    return _PROBES.get(kind, f"{kind} probe")


def _chart(metric: str) -> Any:
    mean, lower, upper = margin_tags(metric)
    series = layout_pb2.MarginChartContent.Series(value=mean, lower=lower, upper=upper)
    title = f"{metric}: mean and 95 % interval"
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
