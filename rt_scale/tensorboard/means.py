"""TensorBoard: a run for every configuration of a sweep, with means over seeds, and the charts that show them.

The run of a configuration has each mean under the metric's own name, so that it is a column of the
HParams view and is drawn among its seeds, and once more, with the ends of its interval, under names of
their own: a margin chart wants three curves, and complains of runs that have some but not all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.util import tensor_util

from rt_scale.spec.errors import RunError
from rt_scale.spec.metrics import parse_probe_name
from rt_scale.store.interval import STATED
from rt_scale.store.metrics import read_metrics
from rt_scale.tensorboard.mean_curves import mean_curves
from rt_scale.tensorboard.writer import renew_events, short_digest, stat_file

MARGIN = "with interval"
"""First part of the names of curves that are there for the margin charts; TensorBoard lists it last."""

SEEDS = "seeds"
"""Name of the curve, of one point, that tells how many seeds the means are of: those that have begun."""

_PROBES = {"linear": "linear probe", "knn": "kNN probe"}


def write_means(folder: Path, tables: Sequence[Path], metrics: Sequence[str]) -> None:
    """Bring the curves of a configuration up to date; where no table has changed, none is read.

    Args:
        folder: the folder of its run.
        tables: the metrics tables of its seeds; those of seeds that have not begun need not exist.
        metrics: names of the metrics that are averaged.

    Raises:
        InputError, RunError: where the disk refuses or is full.
    """
    found = [(path, stat) for path in tables if (stat := stat_file(path))]
    state = [(path.parent.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]
    newest = max((mtime for *_, mtime in state), default=0)
    kind = f"mean-{short_digest([STATED, *metrics])}"  # by another rule they are other curves
    renew_events(folder, kind, newest, state, lambda: _events([path for path, _ in found], metrics))


def _events(tables: Sequence[Path], metrics: Sequence[str]) -> list[Any]:
    """The means as records, in the order of their steps; none where there is none."""
    try:
        columns = [read_metrics(path).to_pydict() for path in tables]
    except RunError:  # A damaged table is told of by all that needs it; a view does without its mean.
        return []
    begun = [table for table in columns if table["step"]]
    points: dict[int, tuple[float, Any]] = {}
    for tag, curve in mean_curves(begun, metrics).items():
        for step, time, *values in zip(curve.steps, curve.times, curve.mean, curve.low, curve.high, strict=True):
            _, summary = points.setdefault(int(step), (float(time), summary_pb2.Summary()))
            for name, value in zip((tag, *margin_tags(tag)), (values[0], *values), strict=True):
                summary.value.add(tag=name, simple_value=value)
    if points:
        points[max(points)][1].value.add(tag=SEEDS, simple_value=len(begun))
    return [
        event_pb2.Event(wall_time=time, step=step, summary=summary) for step, (time, summary) in sorted(points.items())
    ]


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
