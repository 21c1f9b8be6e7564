"""The contents of a report, and its rendering as HTML, as Markdown and in a terminal."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rt_scale.report.analyses.base import Analysis, Picture
from rt_scale.report.beside import BESIDE, LAST_AND_BEST, BesideRow, beside_cells
from rt_scale.report.bill import Bill
from rt_scale.report.headline import headline
from rt_scale.report.paper import Judged
from rt_scale.report.plain import MetricRow, RunPicture, metrics_of, plain_cells
from rt_scale.report.results import EPOCH, ResultRow, Which, titled_probe
from rt_scale.report.statistics import ROLES
from rt_scale.report.status import StatusRow
from rt_scale.spec.errors import counted
from rt_scale.store.metrics import LEAST_SEEDS, STATED
from rt_scale.store.results import RunResult
from rt_scale.system.tables import FittedTable

if TYPE_CHECKING:
    from rt_scale.report.serving.running import RunsNow

JUDGED = (
    "Judged on the last epoch, whichever epoch the tables show: the best over epochs, the start included, would be "
    "above its teacher by construction. Runs of one seed are compared with each other. Brackets hold one-sided 95 % "
    "limits of the mean by Student's t, cut at what it can be, which are narrower than the two-sided intervals of the "
    f"tables. Fewer than {LEAST_SEEDS} seeds decide nothing."
)
"""How verdicts are reached."""
_GAIN_INTERVAL = f", with its 95 % interval (Student's t, from {LEAST_SEEDS} seeds on)"
_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


SPREAD = (
    "Lines are means over seeds. Of fewer than 5 seeds each one is a thin line or a small dot; else bands are 95 % "
    "intervals of the mean, as bars always are."
)
MARKS = "▲ and ▼: the gain's interval is above or below 0."
"""What figures and tables show."""


@dataclass(frozen=True)
class Report:
    """The report of one sweep, or of several that repeat one experiment.

    Attributes:
        title: of the experiment, or the name of the sweep.
        data: data sets with their variants, ``title (name, sha256 ...)``.
        which: the student's epoch.
        tables: rows by probe (``linear``, ``knn@cifar100``, ...), for the probes of the runs.
        beside: last and best epoch, beside the paper's numbers.
        plain: rows of runs without probes.
        shots: pictures that runs wrote.
        plugins: titles and rows of the numbers of plugins' probes; empty if there are none.
        results: of finished runs, by name.
        runs: the folder of run directories.
        departures: fields that differ from the paper.
        analyses: of planes, lines and pruned networks.
        unsampled: number of runs that a search has not sampled yet.
        other_data: sentences on runs whose images differ from the local ones; else empty.
        bill: what the sweeps used of their nodes; None if no driver recorded it.
        made: when the report was made, in words.
        machines: a line for each kind of machine.
        base: the sweep's file, or the spec of the first of single runs.
        files: the figures, then the page and its numbers.
        live: how the runs stand now, on a page that is served.
    """

    title: str
    sweeps: tuple[str, ...]
    experiment: str | None
    data: tuple[str, ...]
    which: Which
    tables: Mapping[str, Sequence[ResultRow]]
    statuses: Sequence[StatusRow]
    results: Mapping[str, RunResult]
    folder: Path
    runs: Path
    beside: Sequence[BesideRow] = ()
    plain: Sequence[MetricRow] = ()
    shots: Sequence[RunPicture] = ()
    verdicts: Sequence[Judged] = ()
    pictures: Sequence[Picture] = ()
    departures: Sequence[str] = ()
    analyses: Sequence[Analysis] = ()
    unsampled: int = 0
    other_data: str = ""
    plugins: Sequence[Sequence[str]] = ()
    bill: Bill | None = None
    made: str = ""
    machines: Sequence[str] = ()
    base: str = ""
    files: Sequence[Path] = ()
    live: RunsNow | None = None

    def link(self, run: str, file: str = "") -> Markup:
        """The relative address of a run's directory, or of a file in it."""
        return Markup(quote(f"{self._to_runs}/{run}/{file}"))

    @functools.cached_property
    def _to_runs(self) -> str:
        return os.path.relpath(self.runs, self.folder)

    @property
    def metrics(self) -> list[str]:
        """The metrics of the plain rows."""
        return metrics_of(self.plain)

    @property
    def scripts(self) -> list[Markup]:
        """The scripts of the page: what follows runs, sortable tables, and Plotly if there is an interactive view."""
        found = [*([_script("live.js")] if self.live else []), _script("sort.js")]
        if not any(analysis.views for analysis in self.analyses):
            return found
        from plotly.offline import get_plotlyjs

        return [*found, Markup(get_plotlyjs()), _script("views.js")]

    @property
    def allowed(self) -> Markup:
        """What a browser lets the page do: show its own styles, pictures and views; ask its own server if served."""
        digests = (base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in self.scripts)
        scripts = "".join(f" 'sha256-{each}'" for each in digests)
        asked = "; connect-src 'self'" if self.live else ""
        return Markup(f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src{scripts}{asked}")

    @property
    def headline(self) -> str:
        """What follows from the numbers, in words."""
        return headline(self.measured, self.verdicts)

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The contents of the page: ids and titles."""
        found = {
            "claims": ("The paper's claims", self.experiment is not None),
            "figures": ("Figures", bool(self.pictures)),
            **{f"analysis-{number}": (each.title, True) for number, each in enumerate(self.analyses)},
            "tables": ("Tables", bool(self.tables or self.plain)),
            "shots": ("Pictures of runs", bool(self.shots)),
            "bill-title": ("What it used", self.bill is not None),
            "without": ("Runs without a result", bool(self.unfinished)),
            "behind": ("Runs behind the numbers", bool(self.configurations)),
        }
        return [(name, title) for name, (title, there) in found.items() if there]

    @property
    def finished(self) -> str:
        """Number of finished runs, e.g. ``7 of 9``."""
        done = sum(status.state == "done" for status in self.statuses)
        return f"{done} of {len(self.statuses) + self.unsampled}"

    @property
    def unfinished(self) -> list[StatusRow]:
        """The runs without a result; a page that is served has those that are running elsewhere."""
        shown = ("done", "running") if self.live else ("done",)
        return [status for status in self.statuses if status.state not in shown]

    @property
    def measured(self) -> dict[str, list[ResultRow]]:
        """By probe, the rows that have a finished run."""
        found = {probe: [row for row in rows if row.measured] for probe, rows in self.tables.items()}
        return {probe: rows for probe, rows in found.items() if rows}

    def to_json(self) -> dict[str, list[dict[str, object]]]:
        """The measured rows by probe as plain values."""
        return {probe: [row.to_json() for row in rows] for probe, rows in self.measured.items()}

    @property
    def configurations(self) -> list[ResultRow]:
        """One row per configuration, for its values and runs."""
        found: dict[str, ResultRow] = {}
        for row in (row for rows in self.tables.values() for row in rows):
            found.setdefault(row.key, row)
        return list(found.values())

    @property
    def notes(self) -> list[str]:
        """Sentences on the limits of the comparison with the paper; none without an experiment."""
        if self.experiment is None:
            return []
        printed = [row.printed for rows in self.tables.values() for row in rows if row.printed is not None]
        found = []
        if any(number.other_data for number in printed):
            found.append("The paper's numbers are of the original data set; ours are of the variant named above.")
        if self.departures:
            found.append(f"Not the paper's setting: {', '.join(self.departures)}.")
        if not printed:
            found.append("The paper prints no number for these configurations.")
        else:
            found.append(f"The paper's numbers: {', '.join(dict.fromkeys(number.source for number in printed))}.")
        return found


def caption(rows: Sequence[ResultRow], which: Which, *, intervals: bool = True) -> str:
    """The caption of a table; without ``intervals`` only the gain has one."""
    text = f"{titled_probe(rows)}: test accuracy in %, mean ± standard deviation over seeds"
    text += f"{', with the 95 % interval of the mean' if intervals else ''}; {EPOCH[which]}; "
    return f"{text}gain = student less its own teacher{'' if intervals else _GAIN_INTERVAL}"


def titles(rows: Sequence[ResultRow]) -> list[str]:
    """Column titles: the axes and the measurements."""
    return [*rows[0].shown, "runs", *ROLES, "gain"]


def same_in_all(rows: Sequence[ResultRow]) -> dict[str, str]:
    """The input and the teacher as text, each if it is the same in all of several rows, which are measured."""
    texts = [dict(zip(ROLES, row.measured_texts(), strict=False)) for row in rows if row.measured]
    roles = ROLES[:2] if len(texts) > 1 and len(texts) == len(rows) else ()
    return {role: texts[0][role] for role in roles if len({each[role] for each in texts}) == 1}


@functools.cache
def _script(name: str) -> Markup:
    return Markup(files("rt_scale.report").joinpath("templates", name).read_text(encoding="utf-8"))


def to_html(report: Report) -> str:
    """One self-contained HTML page: no requests, figures inside; scripts only for tables and interactive views."""
    return _templates().get_template("report.html").render(report=report)


def live_html(report: Report) -> str:
    """The part of a served page that says how the runs stand."""
    return _templates().get_template("live.html").render(report=report)


def script_json(value: object) -> Markup:
    """A value as JSON within a script element."""
    return Markup(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", r"\u003c"))


def to_markdown(report: Report, *, runs: bool = True) -> str:
    """The report as Markdown; without ``runs`` it has no links to run directories, and can be moved."""
    return markdown("report.md", report=report, runs=runs)


def markdown(template: str, **values: object) -> str:
    """Render a Markdown template."""
    return re.sub(r"\n{3,}", "\n\n", _templates(_escaped).get_template(template).render(**values)).strip() + "\n"


def to_rich(rows: Sequence[ResultRow], which: Which) -> FittedTable:
    """Rows (at least one) as a terminal table; rows whose gain has an interval above 0 are bold."""
    lows = [row.measured["gain"].low if row.measured else None for row in rows]
    return FittedTable(
        [*rows[0].shown, "runs", *ROLES, "gain [95 %]"],
        [[*row.shown.values(), row.runs_text, *row.measured_texts(intervals=False)] for row in rows],
        keys=len(rows[0].shown),
        numbers=True,
        caption=caption(rows, which, intervals=False),
        styles=["bold" if low is not None and low > 0 else "" for low in lows],
    )


def plain_to_rich(rows: Sequence[MetricRow]) -> FittedTable:
    """Rows (at least one) of runs without probes as a terminal table."""
    titles, *lines = plain_cells(rows)
    cells = [[cell if isinstance(cell, str) else str(len(cell)) for cell in line] for line in lines]
    return FittedTable([str(title) for title in titles], cells, numbers=True)


def _escaped(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    return Markup(_SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False)))


@functools.cache
def _templates(finalize: Callable[[object], Markup] | None = None) -> Environment:
    """Templates that escape everything but Markup, and raise on undefined names."""
    found = Environment(
        loader=PackageLoader("rt_scale.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, finalize=finalize,
    )  # fmt: skip
    found.globals |= {"BESIDE": BESIDE, "JUDGED": JUDGED, "LAST_AND_BEST": LAST_AND_BEST, "STATED": STATED,
                      "SPREAD": SPREAD, "MARKS": MARKS, "ROLES": ROLES, "beside_cells": beside_cells,
                      "caption": caption, "counted": counted, "plain_cells": plain_cells, "same_in_all": same_in_all,
                      "script_json": script_json, "titles": titles, "titled_probe": titled_probe,
                      "zip": zip}  # fmt: skip
    return found
