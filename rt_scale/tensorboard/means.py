"""TensorBoard: a run for every configuration of a sweep, with means over seeds, and the charts that show them.

A configuration has each mean under the metric's own name, so that it is a column of the HParams view and is drawn among
its seeds, and once more, with the ends of its interval, under names of their own: a margin chart wants three curves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.util import tensor_util

from rt_scale.spec.errors import RunError
from rt_scale.spec.metrics import Bounds, metric_bounds, parse_probe_name
from rt_scale.store.metrics import STATED, interval, read_metrics
from rt_scale.tensorboard.writer import renew_events, short_digest, stat_file

MARGIN = "with interval"
"""First part of the names of curves that are there for the margin charts; TensorBoard lists it last."""

SEEDS = "seeds"
"""Name of the curve, of one point, that tells how many seeds the means are of: those that have begun."""

_PROBES = {"linear": "linear probe", "knn": "kNN probe"}


def write_means(folder: Path, tables: Sequence[Path], metrics: Sequence[str]) -> None:
    """Bring the curves of a configuration up to date; where no table has changed, none is read.

    The metrics tables are those of its seeds; of seeds that have not begun they need not exist.
    """
    found = [(path, stat) for path in tables if (stat := stat_file(path))]
    state = [(path.parent.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]
    newest = max((mtime for *_, mtime in state), default=0)
    kind = f"mean-{short_digest([STATED, *metrics])}"  # by another rule they are other curves
    renew_events(folder, kind, newest, state, lambda: _events([path for path, _ in found], metrics))


def _events(tables: Sequence[Path], metrics: Sequence[str]) -> list[Event]:
    """The means as records, in the order of their steps; none where there is none."""
    try:
        columns = [read_metrics(path).to_pydict() for path in tables]
    except RunError:  # A damaged table is told of by all that needs it; a view does without its mean.
        return []
    begun = [table for table in columns if table["step"]]
    points: dict[int, tuple[float, Summary]] = {}
    for tag, curve in mean_curves(begun, metrics).items():
        for step, time, *values in zip(curve.steps, curve.times, curve.mean, curve.low, curve.high, strict=True):
            _, summary = points.setdefault(int(step), (float(time), Summary()))
            for name, value in zip((tag, *margin_tags(tag)), (values[0], *values), strict=True):
                summary.value.add(tag=name, simple_value=value)
    if points:
        points[max(points)][1].value.add(tag=SEEDS, simple_value=len(begun))
    return [Event(wall_time=time, step=step, summary=summary) for step, (time, summary) in sorted(points.items())]


@dataclass(frozen=True)
class MeanCurve:
    """A metric over the steps at which every seed was measured.

    Attributes:
        steps: int64 [S], increasing.
        times: float64 [S]; seconds since 1970 at which the last seed got there.
        mean: float64 [S].
        low, high: float64 [S], the ends of the interval of the mean; NaN where there is none, see ``interval``.
    """

    steps: np.ndarray
    times: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curves(seeds: Sequence[Mapping[str, Sequence[Any]]], names: Collection[str]) -> dict[str, MeanCurve]:
    """The mean curve of every metric in ``names`` that all seeds have, in that order.

    ``seeds`` are the columns ``step``, ``name``, ``value`` and ``time`` of each seed's metrics table.
    """
    wanted = set(names)
    series = [_series(seed, wanted) for seed in seeds]
    curves = {}
    for name in names:
        members = [seed.get(name, {}) for seed in series]
        if members and (steps := sorted(set.intersection(*(set(member) for member in members)))):
            curves[name] = _mean(steps, members, metric_bounds(name))
    return curves


def _series(table: Mapping[str, Sequence[Any]], wanted: set[str]) -> dict[str, dict[int, tuple[float, float]]]:
    """name -> step -> (value, time)."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for step, name, value, time in zip(table["step"], table["name"], table["value"], table["time"], strict=True):
        if name in wanted:
            found.setdefault(name, {})[step] = (value, time)
    return found


def _mean(steps: Sequence[int], seeds: Sequence[Mapping[int, tuple[float, float]]], bounds: Bounds) -> MeanCurve:
    values, times = np.array([[seed[step] for step in steps] for seed in seeds]).transpose(2, 0, 1)
    # A seed may have diverged: the mean is then infinite or no number, which is what is shown.
    with np.errstate(invalid="ignore", over="ignore"):
        mean = values.mean(axis=0)
        std = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(steps), np.nan)
        low, high = interval(mean, std, len(seeds), bounds)
    return MeanCurve(np.array(steps), times.max(axis=0), mean, low, high)


def margin_tags(metric: str) -> tuple[str, str, str]:
    """Names of the curves that a margin chart of ``metric`` is made of: mean, lower and upper end."""
    return f"{MARGIN}/{metric}/mean", f"{MARGIN}/{metric}/lower", f"{MARGIN}/{metric}/upper"


def layout_summary(metrics: Sequence[str]) -> Summary:
    """The summary that lays out a margin chart for each of ``metrics``, by what they measure."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(_group(metric), []).append(metric)
    categories = [  # TensorBoard draws the charts of a category in the reverse order.
        layout_pb2.Category(title=title, chart=[_chart(metric) for metric in reversed(members)])
        for title, members in groups.items()
    ]
    summary = Summary()
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


def _chart(metric: str) -> layout_pb2.Chart:
    mean, lower, upper = margin_tags(metric)
    series = layout_pb2.MarginChartContent.Series(value=mean, lower=lower, upper=upper)
    title = f"{metric}: mean and 95 % interval"
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
