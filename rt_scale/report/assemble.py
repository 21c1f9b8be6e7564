"""From runs and their results to what a report says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rt_scale.report import figures, tables
from rt_scale.report.beside import beside
from rt_scale.report.contents import EPOCH, Contents, Picture
from rt_scale.report.judging import judge_all
from rt_scale.report.outcomes import Outcome, Series, has_probe, outcomes, series, with_first_rounds
from rt_scale.report.panels import ACCURACY, drawings
from rt_scale.report.paper import EXPERIMENTS, Experiment
from rt_scale.report.paper_numbers import data_title, data_words
from rt_scale.report.shown import departures
from rt_scale.report.status import StatusRow, status_of_sweep
from rt_scale.report.tables import Which
from rt_scale.spec.grid import Point
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store

_KINDS = ("linear", "knn")
"""Probes that figures are drawn of."""
_PANELS = 12
"""Panels that a figure has at most."""


@dataclass(frozen=True)
class Sources:
    """What a report is made from.

    Attributes:
        sweeps: names of the sweeps, the one that it belongs to first.
        experiment: of the paper, if any.
        finished: runs with their results.
        standing: all runs in their order, and how they stand.
        store: where the runs are.
        which: the student's epoch.
        folder: where the report goes.
        other_data: as of :class:`Contents`.
    """

    sweeps: tuple[str, ...]
    experiment: str | None
    finished: Sequence[tuple[Point, RunResult]]
    standing: Sequence[tuple[Point, StatusRow]]
    store: Store
    which: Which
    folder: Path
    other_data: str = ""


def assemble(sources: Sources) -> Contents:
    """The contents, their figures written."""
    if sources.experiment is not None:
        sources = _with_first_rounds(sources)
    points = [point for point, _ in sources.standing]
    results = {point.spec.name: result for point, result in sources.finished}
    statuses = {status.name: status for _, status in sources.standing}
    metrics = {name: series(read_metrics(sources.store.run(name).metrics_path).to_pydict()) for name in results}
    keys = [key for key in tables.probe_keys(points)
            if any(has_probe(point.spec, key) for point in points)]  # fmt: skip
    runs = {key: outcomes(points, results, key, metrics) for key in keys}
    plan = None if sources.experiment is None else EXPERIMENTS[sources.experiment]
    every = [run for members in runs.values() for run in members]
    return Contents(
        title=sources.sweeps[0] if plan is None else plan.title,
        sweeps=sources.sweeps,
        experiment=sources.experiment,
        data=_data(results.values()),
        which=sources.which,
        verdicts=[] if plan is None else judge_all(plan, every, statuses),
        pictures=_curves(sources, metrics, keys) if plan is None else _paper_pictures(sources, plan, every, metrics),
        tables={key: beside(points, results, statuses, key, sources.which, sources.experiment) for key in keys},
        statuses=list(statuses.values()),
        departures=[] if plan is None else departures(points),
        folder=sources.folder,
        runs=sources.store.root / "runs",
        other_data=sources.other_data,
    )


def _with_first_rounds(sources: Sources) -> Sources:
    """Also the runs whose students are teachers here, where they are no part of the sweep themselves."""
    points = [point for point, _ in sources.standing]
    added = with_first_rounds(points)[len(points) :]
    results = [(point, sources.store.run(point.spec).result()) for point in added]
    standing = zip(added, status_of_sweep(added, sources.store), strict=True)
    return replace(
        sources,
        finished=[*sources.finished, *((point, result) for point, result in results if result is not None)],
        standing=[*sources.standing, *standing],
    )


def _data(results: Iterable[RunResult]) -> tuple[str, ...]:
    """Every data set that runs were on, with its variant, its name here and the start of its checksum."""
    found: dict[str, None] = {}
    for result in results:
        for name, each in result.data.sets():
            found[f"{data_title(name, each.title)} ({name}, sha256 {each.sha256[:12]})"] = None
    return tuple(found)


def _curves(sources: Sources, metrics: Mapping[str, Series], keys: Sequence[str]) -> list[Picture]:
    """Student against teacher over epochs, of a sweep that is no experiment of the paper's."""
    found = []
    name = sources.sweeps[0]
    for probe in (key for key in keys if key.partition("@")[0] in _KINDS):
        curves = [figures.curve(point, metrics[point.spec.name], probe) for point, _ in sources.finished]
        drawn = [curve for curve in curves if curve is not None]
        if drawn:
            figure = figures.draw(drawn, probe, name)
            found.append(_save(figure, sources.folder, f"curves-{probe}", f"{tables.probe_title(probe)}, by epoch."))
    return found


def _paper_pictures(
    sources: Sources, plan: Experiment, runs: Sequence[Outcome], metrics: Mapping[str, Series]
) -> list[Picture]:
    """The paper's figures: of every kind of probe, or once where no accuracy is drawn."""
    found = []
    assert sources.experiment is not None  # there is a plan
    for name, panels in plan.figures.items():
        probed = any(panel.metric == ACCURACY for panel in panels)
        for kind in _KINDS if probed else [""]:
            about = [run for run in runs if run.at["probe"] == kind or not probed]
            rows = [drawings(panel, about, metrics, sources.which, sources.experiment) for panel in panels]
            drawn = [each for row in rows for each in row]
            if not drawn:
                continue
            parts = [name.capitalize().replace("-", " "), tables.probe_title(kind) if probed else ""]
            data = data_words((run.at["data"], run.at["probed" if probed else "data"]) for run in about)
            title = ", ".join(part for part in (*parts, data) if part)
            more = f" ({len(drawn) - _PANELS} more panels not drawn)" if len(drawn) > _PANELS else ""
            # Rows of equal length stay rows; what is beside a summary makes one row with it.
            alike = len(rows) > 1 and {len(row) for row in rows} == {2}
            columns = 2 if alike else min(3, len(drawn))
            figure = figures.draw_drawings(drawn[:_PANELS], f"{title}{more}", columns)
            summary = any(panel.x != "epoch" for panel in panels)
            axes = ["with the paper's axes"] if name.startswith("figure") else []
            told = [title, *axes, *([EPOCH[sources.which]] if summary else [])]
            file = f"{name}-{kind}" if probed else name
            found.append(_save(figure, sources.folder, file, f"{', '.join(told)}."))
    return found


def _save(figure: Any, folder: Path, name: str, title: str) -> Picture:
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    figures.save(figure, svg, png)
    return Picture(name, title, svg, png)
