"""TensorBoard: the means over seeds of each configuration of a sweep, and the charts that show them.

Each mean has the metric's own name, for the HParams view and the charts of its seeds; a copy with the ends of its
interval has other names, as a margin chart needs three curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.util import tensor_util

from rt_scale.spec.errors import RunError
from rt_scale.spec.grid import grouped
from rt_scale.spec.metrics import metric_bounds, parse_probe_name
from rt_scale.store.metrics import STATED, interval, read_metrics
from rt_scale.tensorboard.writer import renew_events, short_digest

MARGIN, EVERY = "with interval", "with interval, every configuration"
"""Prefixes of the curves of margin charts, of a few configurations and of all; TensorBoard lists them last."""

SEEDS = "seeds"
"""Name of the curve, of one point, with the number of seeds that have begun."""

_PROBES = {"linear": "linear probe", "knn": "kNN probe"}


def write_means(
    folder: Path, tables: Sequence[Path], metrics: Sequence[str], charts: Mapping[str, Sequence[str]]
) -> None:
    """Update the mean curves of a configuration from its seeds' metrics tables, unless none has changed.

    Args:
        tables: those of seeds that have not begun need not exist.
        charts: metric -> prefixes of its curves for margin charts.
    """
    kind = f"mean-{short_digest([STATED, metrics, charts])}"  # another interval rule makes other curves
    inputs = {path.parent.name: path for path in tables}
    renew_events(folder, kind, inputs, lambda found: _events([*found.values()], metrics, charts))


def _events(tables: Sequence[Path], metrics: Sequence[str], charts: Mapping[str, Sequence[str]]) -> list[Event]:
    """The means as records, in the order of their steps."""
    try:
        found = [read_metrics(path) for path in tables]
    except RunError:  # Other commands report a damaged table; the view omits the mean.
        return []
    begun = [table for table in found if len(table)]
    points: dict[int, tuple[float, Summary]] = {}
    for tag, curve in mean_curves(begun, metrics).items():
        for step, time, *values in zip(*curve, strict=True):
            _, summary = points.setdefault(int(step), (float(time), Summary()))
            summary.value.add(tag=tag, simple_value=values[0])
            for prefix in charts.get(tag, ()):
                for name, value in zip(margin_tags(tag, prefix), values, strict=True):
                    summary.value.add(tag=name, simple_value=value)
    if points:
        points[max(points)][1].value.add(tag=SEEDS, simple_value=len(begun))
    return [Event(wall_time=time, step=step, summary=summary) for step, (time, summary) in sorted(points.items())]


class MeanCurve(NamedTuple):
    """A metric over the steps (int64 [S], increasing) at which every seed was measured; the others are float64 [S].

    ``times`` are seconds since 1970 at which the last seed reached a step; ``low`` and ``high`` are the ends of the
    mean's ``interval``, NaN if there is none.
    """

    steps: np.ndarray
    times: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curves(seeds: Sequence[pa.Table], names: Sequence[str]) -> dict[str, MeanCurve]:
    """Name -> mean curve, for the ``names`` that all seeds have, from each seed's metrics table."""
    if not seeds:
        return {}
    newest = [("value", "last"), ("time", "last")]
    measured = (seed.filter(pc.is_in(seed["name"], pa.array(names, pa.string()))) for seed in seeds)
    rows = pa.concat_tables(table.group_by(["name", "step"], use_threads=False).aggregate(newest) for table in measured)
    # The mean over a diverged seed is inf or NaN, and is shown so.
    over = rows.group_by(["name", "step"]).aggregate([
        ("value_last", "mean"), ("value_last", "stddev", pc.VarianceOptions(ddof=1)), ("value_last", "count"),
        ("time_last", "max"),
    ])  # fmt: skip
    common = over.filter(pc.equal(over["value_last_count"], len(seeds))).sort_by("step")
    curves = {}
    for name in names:
        if len(curve := common.filter(pc.equal(common["name"], name))):
            columns = ("step", "time_last_max", "value_last_mean", "value_last_stddev")
            steps, times, mean, std = (curve[column].to_numpy() for column in columns)
            with np.errstate(invalid="ignore", over="ignore"):
                curves[name] = MeanCurve(steps, times, mean, *interval(mean, std, len(seeds), metric_bounds(name)))
    return curves


def margin_tags(metric: str, prefix: str = MARGIN) -> tuple[str, str, str]:
    """Names of the curves of a margin chart of ``metric``: mean, lower and upper end."""
    return f"{prefix}/{metric}/mean", f"{prefix}/{metric}/lower", f"{prefix}/{metric}/upper"


def layout_summary(metrics: Sequence[str], *, every: bool = False) -> Summary:
    """The summary that lays out a margin chart per metric, grouped by what they measure.

    With ``every`` those of all configurations follow, in groups that are closed at first.
    """
    groups = grouped(metrics, _group)
    categories = [_category(title, members, MARGIN) for title, members in groups.items()]
    if every:
        categories += [_category(f"{title}, every configuration", each, EVERY) for title, each in groups.items()]
    value = Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG,
        metadata=layout_metadata.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(layout_pb2.Layout(category=categories).SerializeToString()),
    )
    return Summary(value=[value])


def _category(title: str, metrics: Sequence[str], prefix: str) -> layout_pb2.Category:
    charts = [_chart(metric, prefix) for metric in reversed(metrics)]  # TensorBoard reverses them
    return layout_pb2.Category(title=title, chart=charts, closed=prefix == EVERY)


def _group(metric: str) -> str:
    probe = parse_probe_name(metric)
    if probe is None:
        return "distances" if metric.startswith("distance/") else "loss"
    kind = probe.probe.partition("_")[0]
    return _PROBES.get(kind, f"{kind} probe")


def _chart(metric: str, prefix: str) -> layout_pb2.Chart:
    mean, lower, upper = margin_tags(metric, prefix)
    series = layout_pb2.MarginChartContent.Series(value=mean, lower=lower, upper=upper)
    title = f"{metric}: mean and 95 % interval"
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
