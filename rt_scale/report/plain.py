"""Runs without probes in a report: their last metrics over seeds, and the pictures that runs of any kind wrote."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from markupsafe import Markup

from rt_scale.report.statistics import Estimate, estimate
from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.metrics import metric_bounds
from rt_scale.store.atomic import names_in
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store

MOST_PICTURES = 12
"""Most pictures of runs that a report shows."""


@dataclass(frozen=True)
class MetricRow:
    """A configuration of such runs.

    Attributes:
        shown: name of an axis -> value as text.
        runs: names of its runs, finished or not, one for each seed.
        measured: metric -> its last value over the finished seeds.
    """

    shown: Mapping[str, str]
    runs: tuple[str, ...]
    measured: Mapping[str, Estimate]

    def texts(self, metrics: Iterable[str]) -> list[str]:
        """Each of ``metrics`` with its interval, e.g. ``0.25 [0.2, 0.3]``."""
        return [_text(self.measured.get(name)) for name in metrics]


def _text(value: Estimate | None) -> str:
    if value is None:
        return "-"
    interval = "" if value.low is None or value.high is None else f" [{value.low:.4g}, {value.high:.4g}]"
    return f"{value.mean:.4g}{interval}"


def metric_rows(points: Sequence[Point], results: Mapping[str, RunResult]) -> list[MetricRow]:
    """The configurations of runs without probes, in the sweep's order."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if not point.spec.probes:
            groups.setdefault(point.configuration, []).append(point)
    names = axis_names(dict.fromkeys(key for group in groups.values() for key in group[0].values))
    rows = []
    for group in groups.values():
        last = [results[point.spec.name].last for point in group if point.spec.name in results]
        metrics = dict.fromkeys(name for values in last for name in values)
        shown = {names[key]: value_label(value) for key, value in group[0].values.items()}
        measured = {
            name: estimate([values[name] for values in last if name in values], metric_bounds(name)) for name in metrics
        }
        rows.append(MetricRow(shown, tuple(point.spec.name for point in group), measured))
    return rows


def metrics_of(rows: Iterable[MetricRow]) -> list[str]:
    """Every metric of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row.measured))


Cells = list[str | tuple[str, ...]]
"""A line of a table: texts, and the names of a row's runs."""


def plain_cells(rows: Sequence[MetricRow]) -> list[Cells]:
    """The rows (at least one) as a table for people, titles first.

    With more metrics than configurations, each metric is a line and each configuration a column.
    """
    metrics = metrics_of(rows)
    if len(metrics) <= len(rows):
        titles: Cells = [*rows[0].shown, "runs", *metrics]
        body: Iterable[Cells] = ([*row.shown.values(), row.runs, *row.texts(metrics)] for row in rows)
        return [titles, *body]
    columns = [", ".join(f"{name} {value}" for name, value in row.shown.items()) or "value" for row in rows]
    values = zip(*(row.texts(metrics) for row in rows), strict=True)
    lines: Iterable[Cells] = ([name, *cells] for name, cells in zip(metrics, values, strict=True))
    return [["metric", *columns], ["runs", *(row.runs for row in rows)], *lines]


def metrics_table(rows: Sequence[MetricRow]) -> pa.Table:
    """One row per configuration and metric: mean, spread, interval and the number of seeds."""
    return pa.Table.from_pylist(
        [
            {**row.shown, "metric": name, **{key: getattr(value, key) for key in ("mean", "std", "low", "high", "n")},
             "runs": " ".join(row.runs)}
            for row in rows for name, value in row.measured.items()
        ]
    )  # fmt: skip


@dataclass(frozen=True)
class RunPicture:
    """A picture in the ``artifacts`` of a run, which ``label`` names for people."""

    label: str
    run: str
    path: Path

    @property
    def inline(self) -> Markup:
        """The picture as an HTML element."""
        data = base64.b64encode(self.path.read_bytes()).decode()
        return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(data, self.label)


def run_pictures(points: Sequence[Point], store: Store) -> list[RunPicture]:
    """The pictures of the first runs that have some."""
    found: list[RunPicture] = []
    for point in points:
        folder = store.run(point.spec).artifacts
        paths = [folder / name for name in sorted(names_in(folder)) if name.endswith(".png")]
        found += [RunPicture(f"{point.label}: {path.stem}", point.spec.name, path) for path in paths]
        if len(found) >= MOST_PICTURES:
            break
    return found[:MOST_PICTURES]
