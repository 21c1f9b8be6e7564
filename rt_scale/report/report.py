"""Makes the report of sweeps: a page, tables and figures in a folder of the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from rt_scale.experiments.other_data import DataHere, compare_sweeps
from rt_scale.report.analyses.base import Analysis, Asked, Picture
from rt_scale.report.beside import beside_rows, beside_table
from rt_scale.report.bill import bill_of
from rt_scale.report.export import numbers_table, verdicts_table, write_report_table
from rt_scale.report.figures.drawing import draw, save
from rt_scale.report.figures.grids import gain_panels
from rt_scale.report.figures.panels import GAIN, OF_PROBES, Drawing, Heatmap, drawings
from rt_scale.report.page import Report, to_html, to_markdown
from rt_scale.report.paper import EXPERIMENTS, Experiment, Panel, judge_all
from rt_scale.report.paper_numbers import START, data_title, data_words, departures
from rt_scale.report.plain import metric_rows, metrics_table, run_pictures
from rt_scale.report.results import (
    EPOCH,
    KNOWN,
    ProbedRun,
    Series,
    Which,
    plugin_table,
    probe_keys,
    probe_title,
    probed_runs,
    result_rows,
    series,
    with_first_rounds,
)
from rt_scale.report.status import StatusRow, status_of_sweep
from rt_scale.report.summary import machines
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.document import flat_fields
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.grid import Point
from rt_scale.spec.kinds import analyses
from rt_scale.spec.run import all_runs
from rt_scale.store.atomic import write_bytes
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names
from rt_scale.store.usage import NodeRate
from rt_scale.system.files import remove

_KINDS = ("linear", "knn")
"""Probes to draw figures of."""
_PANELS = 12
"""Most panels of a figure."""


def make_report(
    sweeps: Sequence[SweepRuns], which: Which, here: DataHere, rates: Sequence[NodeRate] = (), *, empty: bool = False
) -> Report:
    """Write one report of sweeps that repeat the same experiment, in the folder of the first.

    ``rates``: what nodes cost; none: those that were named when the sweeps were run. ``empty``: even if no run is
    finished.

    Raises:
        InputError: if sweeps have equal names or different data, or no run is finished.
    """
    refuse_equal_names(sweeps, "reported together")
    first, store = sweeps[0], sweeps[0].store
    points, unsampled = report_points(sweeps), sum(sweep.to_sample for sweep in sweeps)
    results = _results(points, store)
    check_same_data({sweep.name: sweep.points for sweep in sweeps}, results)
    if not (empty or results or any(store.run(point.spec).artifacts.exists() for point in points)):
        raise InputError(
            f"None of the {len(points) + unsampled} runs of {first.words} is finished in '{store.place}'. "
            "Run it with 'rt-scale sweep' or 'rt-scale run', or name the store with --store."
        )
    ended = {name: stop for sweep in sweeps for name, stop in sweep.early_stopped.items()}
    report = _report(sweeps, points, results, status_of_sweep(points, store, ended), which)
    bill = bill_of([sweep.folder for sweep in sweeps], rates)
    report = replace(report, unsampled=unsampled, other_data=compare_sweeps(sweeps, here)[1], bill=bill)
    made = time.strftime("%Y-%m-%d, %H:%M UTC", time.gmtime())
    report = replace(report, made=made, machines=machines([report], store), base=_base(first))
    return replace(report, files=_write(report))


def report_points(sweeps: Sequence[SweepRuns]) -> list[Point]:
    """The runs of a report: of sweeps and, of the paper's, those whose students are teachers there."""
    points = merged_points([sweep.points for sweep in sweeps])
    if sweeps[0].spec.experiment is None:
        return points
    trained = [point for point in points if isinstance(point.spec, TrainingSpec)]
    return [*points, *with_first_rounds(trained)[len(trained) :]]


def _base(sweep: SweepRuns) -> str:
    """The sweep's file, with its assignments; of single runs the spec of the first."""
    if sweep.home is not None:
        return yaml.safe_dump(sweep.grid[0].spec.fields, sort_keys=False, allow_unicode=True)
    text = sweep.text or yaml.safe_dump(sweep.spec.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    return "".join([text.rstrip(), *(f"\n# --set {each}" for each in sweep.overrides)])


def _results(points: Iterable[Point], store: Store) -> dict[str, RunResult]:
    found = ((point.spec.name, store.run(point.spec).result()) for point in points)
    return {name: result for name, result in found if result is not None}


def _report(
    sweeps: Sequence[SweepRuns],
    points: Sequence[Point],
    results: Mapping[str, RunResult],
    statuses: Sequence[StatusRow],
    which: Which,
) -> Report:
    """The report; its figures are written, its texts are not."""
    names, asked, store = tuple(sweep.name for sweep in sweeps), sweeps[0].spec.experiment, sweeps[0].store
    own = names[0] if sweeps[0].home is None else sweeps[0].words
    experiment = _own_experiment(own, points) if asked is None else EXPERIMENTS[asked]
    folder = sweeps[0].folder.report
    if len(names) > 1:
        folder = folder / "-".join(["with", *names[1:]])
    metrics = {name: series(read_metrics(store.run(name).metrics_path).to_pydict()) for name in results}
    states = {status.name: status.state for status in statuses}
    probed = [point for point in points if point.spec.probes]
    runs = {key: probed_runs(probed, results, states, key, metrics) for key in probe_keys(probed)}
    every = [run for members in runs.values() for run in members]
    asked_for = Asked(points, results, states, store, folder, which, asked)
    shown = _analyses(asked_for)
    analysed = [run for analysis in shown for run in analysis.runs]
    tables = result_rows(probed, runs, which, asked)
    about = Report(
        title=experiment.title,
        sweeps=names,
        experiment=asked,
        data=_data(results.values()),
        which=which,
        tables=tables,
        beside=beside_rows(tables),
        plain=metric_rows(points, results),
        shots=run_pictures(points, store),
        statuses=statuses,
        results=results,
        folder=folder,
        runs=store.root / "runs",
        verdicts=judge_all(experiment, [*every, *analysed]),
        analyses=shown,
        departures=departures(_distillations(points) if analysed else probed),
        plugins=plugin_table(probed, results) if probed else [],
    )
    return replace(about, pictures=_pictures(about, experiment, every, metrics))


def _analyses(asked: Asked) -> list[Analysis]:
    """What is shown of the runs of each kind beside metrics and probes."""
    kinds: dict[Callable[[Asked], Analysis | None], list[Point]] = {}
    for point in asked.points:
        for analyse in analyses(point.spec.kind):
            kinds.setdefault(analyse, []).append(point)
    found = (analyse(replace(asked, points=points)) for analyse, points in kinds.items())
    return [analysis for analysis in found if analysis is not None]


def _distillations(points: Iterable[Point]) -> list[Point]:
    """The runs that train without labels, of those and all that they need; how near they start is what is analysed."""
    runs = (run for run in all_runs(point.spec for point in points) if isinstance(run, TrainingSpec))
    return [Point({"student.alpha": run.student.alpha}, 0, run) for run in runs if not run.learns_labels]


def _data(results: Iterable[RunResult]) -> tuple[str, ...]:
    """The data sets of runs, each with its variant, name and start of its checksum."""
    titles = (
        f"{data_title(name, each.title)} ({name}, sha256 {each.sha256[:12]})"
        for result in results for name, each in result.sets()
    )  # fmt: skip
    return tuple(dict.fromkeys(titles))


def _own_experiment(name: str, points: Sequence[Point]) -> Experiment:
    """Of a sweep that is none of the paper's: student and gain over epochs, a line for each value of the first axis.

    Each combination of the other axes is a column.
    """
    axes = (KNOWN.get(key, key) for point in points for key in point.values if not key.startswith(START))
    line = next(axes, "probe")
    return Experiment(name, (), {"curves": (Panel("epoch", line), Panel("epoch", line, metric=GAIN))})


def _pictures(
    report: Report, experiment: Experiment, runs: Sequence[ProbedRun], metrics: Mapping[str, Series]
) -> list[Picture]:
    """Each figure once per kind of probe, or once if it draws nothing of probes; then the gain over the axes."""
    found = []
    for name, panels in experiment.figures.items():
        probed = any(panel.metric in OF_PROBES for panel in panels)
        for kind in _KINDS if probed else [""]:
            about = [run for run in runs if run.at["probe"] == kind or not probed]
            small = bool(report.departures)
            rows = [drawings(panel, about, metrics, report.which, report.experiment, other_size=small)
                    for panel in panels]  # fmt: skip
            summary = any(panel.x != "epoch" for panel in panels)
            found += _picture(report, name, kind, about, rows, summary=summary)
    for kind in _KINDS:
        about = [run for run in runs if run.at["probe"] == kind]
        found += _picture(report, "gain", kind, about, [gain_panels(about, report.which)], summary=True)
    return found


def _picture(
    report: Report,
    name: str,
    kind: str,
    runs: Sequence[ProbedRun],
    rows: Sequence[Sequence[Drawing | Heatmap]],
    *,
    summary: bool,
) -> list[Picture]:
    """Draw and write one figure of ``runs`` under a ``kind`` of probe (empty: of no probe); none without panels."""
    # Rows of equal length stay rows; other panels share one row.
    alike = len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1
    most = _PANELS // len(rows) if alike else _PANELS
    drawn = [each for row in rows for each in (row[:most] if alike else row)][:_PANELS]
    if not drawn:
        return []
    left_out = sum(map(len, rows)) - len(drawn)
    own = report.experiment is None
    parts = [report.title] if own else [] if name == "gain" else [name.capitalize().replace("-", " ")]
    parts += ["gain over own teacher"] * (name == "gain") + ([probe_title(kind)] if kind else [])
    title = ", ".join([*parts, *_shared_data(runs, drawn, probed=bool(kind))])
    title = title[0].upper() + title[1:] if not own else title
    more = f" ({left_out} more panels not drawn)" if left_out else ""
    pairs = isinstance(drawn[0], Heatmap) and not isinstance(drawn[-1], Heatmap)
    columns = min(most, len(rows[0])) if alike else min(2 if pairs else 3, len(drawn))
    figure = draw(drawn, f"{title}{more}", columns, same_heights=own and alike)
    axes = ["with the paper's axes"] if name.startswith("figure") else []
    file = f"{name}-{kind}" if kind else name
    svg, png = (report.folder / f"{file}.{form}" for form in ("svg", "png"))
    save(figure, svg, png)
    return [Picture(file, f"{', '.join([title, *axes, *([EPOCH[report.which]] if summary else [])])}.", svg, png)]


def _shared_data(
    runs: Sequence[ProbedRun], drawn: Sequence[Drawing | Heatmap], *, probed: bool
) -> list[str]:  # fmt: skip
    """The data sets that all panels share; none if their titles say them."""
    if any("→" in panel.title for panel in drawn):
        return []
    words = data_words((run.at["data"], run.at["probed" if probed else "data"]) for run in runs)
    return [words] if words else []


def _write(report: Report) -> list[Path]:
    """Write the page as HTML and Markdown and its tables; returns the paths of these and of the figures."""
    folder = report.folder
    content = {"data": report.data, "which": report.which, "tables": report.to_json(), **bill_json(report)}
    plain = json.dumps(content, indent=1)
    texts = {"report.html": to_html(report), "report.md": to_markdown(report), "tables.json": plain}
    for name, text in texts.items():
        write_bytes(folder / name, text.encode())
    remove(folder / "tables.md")  # of an earlier version
    tables = {"report": numbers_table(report)} if report.tables else {}
    tables |= {"beside": beside_table(report.beside)} if report.beside else {}
    tables |= {"metrics": metrics_table(report.plain)} if report.metrics else {}
    tables |= {"verdicts": verdicts_table(report)} if report.verdicts else {}
    files = [picture.png for picture in report.pictures] + [picture.svg for picture in report.pictures]
    files += [file for analysis in report.analyses for file in analysis.files]
    files += [folder / name for name in texts]
    return files + [path for name, table in tables.items() for path in write_report_table(folder / name, table)]


def bill_json(report: Report) -> dict[str, object]:
    """The bill under its name, if there is one."""
    return {} if report.bill is None else {"bill": report.bill.to_json()}


def check_same_data(sweeps: Mapping[str, Sequence[Point]], results: Mapping[str, RunResult]) -> None:
    """Refuse (InputError) to report runs on different data together.

    All sweeps, by name, must request equal names, sizes and samples of data, and all results must have the same content
    of each data set.
    """
    asked = {name: sorted({point.spec.data_words for point in points}) for name, points in sweeps.items()}
    (first, wanted), *others = asked.items()
    for name, given in others:
        if given != wanted:
            raise InputError(
                f"Sweeps '{first}' and '{name}' are the same experiment on different data, and are not merged: "
                f"'{first}' has {_listed(wanted)}, '{name}' has {_listed(given)}. Report them one by one: "
                "rt-scale report FILE."
            )
    contents: dict[str, dict[str, str]] = {}
    for name, points in sweeps.items():
        for run in (point.spec.name for point in points if point.spec.name in results):
            for data, each in results[run].sets():
                if data != GAUSSIAN:  # drawn as each spec says
                    contents.setdefault(data, {}).setdefault(each.sha256, f"{run} of '{name}'")
    for data, found in contents.items():
        if len(found) > 1:
            shas = ", ".join(f"sha256 {sha[:12]}... in {run}" for sha, run in found.items())
            raise InputError(
                f"The data set '{data}' had different contents in runs that would be reported together: {shas}. Their "
                "numbers are not averaged. Report sweeps one by one, or run those of one content again: remove their "
                "directories, then rt-scale sweep."
            )


def merged_points(sweeps: Sequence[Sequence[Point]]) -> list[Point]:
    """The distinct runs of sweeps; fields that a sweep varies, or that differ between sweeps, are axes of all."""
    points = list({point.spec.name: point for members in sweeps for point in members}.values())
    if len(sweeps) == 1:
        return points
    fields = [flat_fields(point.spec.model_dump(mode="json", exclude={"seeds"})) for point in points]
    axes = dict.fromkeys(key for point in points for key in point.values)
    keys = dict.fromkeys(key for each in fields for key in each if key not in axes)
    other = [key for key in keys if len({repr(each.get(key)) for each in fields}) > 1]
    shared = [key for key in (*axes, *other) if "start_from" not in key]
    starts = [{key: value for key, value in point.values.items() if "start_from" in key} for point in points]
    return [
        replace(point, values={key: point.values.get(key, each.get(key)) for key in shared} | start)
        for point, each, start in zip(points, fields, starts, strict=True)
    ]


def _listed(data: Sequence[str]) -> str:
    return "; ".join(data[:6]) + (f" and {len(data) - 6} more" if len(data) > 6 else "")
