"""What a report says, before it is a page: verdicts, figures, tables, and the runs behind them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt_scale.report.beside import BesideRow, Member
from rt_scale.report.judging import Judged
from rt_scale.report.paper_numbers import data_words
from rt_scale.report.status import StatusRow
from rt_scale.report.tables import Estimate, Which, gain_text, probe_title
from rt_scale.store.interval import LEAST_SEEDS

EPOCH = {
    "last": "student after its last epoch",
    "best": "student at its best probed epoch, as the paper reports it (a maximum over the test split)",
}
"""What the student's numbers are, by ``Which``."""
JUDGED = (
    "Judged on the last epoch, whichever epoch the tables show: the best over epochs, the start included, would be "
    "above its teacher by construction. Runs of one seed are compared with each other. Brackets hold one-sided 95 % "
    "limits of the mean by Student's t, cut at what it can be, which are narrower than the two-sided intervals of the "
    f"tables. Fewer than {LEAST_SEEDS} seeds decide nothing."
)
"""What verdicts rest on."""
ROLES = ("input", "teacher", "student")
NOTHING = "-"
"""A cell without a number."""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: of its files, without suffix.
        title: what it shows.
        svg, png: its files.
    """

    name: str
    title: str
    svg: Path
    png: Path


@dataclass(frozen=True)
class Contents:
    """A report.

    Attributes:
        title: of the experiment, or the name of the sweep.
        sweeps: names of the sweeps.
        experiment: of the paper, if it is one.
        data: data sets with their variants, ``title (name, sha256 ...)``.
        which: the student's epoch.
        verdicts: on the experiment's claims.
        pictures: figures.
        tables: rows by probe.
        statuses: every run.
        departures: fields that are not as in the paper.
        folder: where the report is written.
        runs: the folder of run directories.
        other_data: which runs are on other images than were here when the report was made, in sentences; else empty.
    """

    title: str
    sweeps: tuple[str, ...]
    experiment: str | None
    data: tuple[str, ...]
    which: Which
    verdicts: Sequence[Judged]
    pictures: Sequence[Picture]
    tables: Mapping[str, Sequence[BesideRow]]
    statuses: Sequence[StatusRow]
    departures: Sequence[str]
    folder: Path
    runs: Path
    other_data: str = ""

    def link(self, run: str, file: str = "") -> str:
        """The relative address of a run's directory, or of a file in it."""
        return f"{os.path.relpath(self.runs / run, self.folder)}/{file}"


def titled_probe(rows: Sequence[BesideRow]) -> str:
    """As ``tables.probe_title``, with the data sets that the rows (at least one) have in common."""
    words = data_words(row.data for row in rows)
    return ", ".join([probe_title(rows[0].probe.partition("@")[0]), *([words] if words else [])])


def caption(rows: Sequence[BesideRow], which: Which, paper: bool) -> str:
    """What the numbers of a table are."""
    text = (
        f"{titled_probe(rows)}: test accuracy in %, mean ± standard deviation over seeds, with the 95 % interval of "
        f"the mean; {EPOCH[which]}; gain = student less its own teacher"
    )
    beside = "; paper = the best over its epochs; difference = our student less the paper's, in points"
    return text + beside if paper else text


def beside_paper(rows: Sequence[BesideRow]) -> bool:
    """Whether a table has columns for the paper: it prints a number for one of the rows."""
    return any(row.printed is not None for row in rows)


def titles(rows: Sequence[BesideRow]) -> list[str]:
    """Column titles: the axes, then what was measured, then the paper's."""
    paper = ["paper: teacher", "paper: student", "difference"] if beside_paper(rows) else []
    return [*rows[0].values, "runs", *ROLES, "gain", *paper]


def cells(row: BesideRow, paper: bool) -> list[str]:
    """The row as text, in the order of the titles; ``paper``: with the paper's columns."""
    if row.measured:
        measured = [with_interval(row.measured[role]) for role in ROLES]
        measured.append(gain_text(row.measured["gain"]))
    else:
        measured = [NOTHING] * 4
    return [*row.values.values(), runs_text(row), *measured, *(_paper(row) if paper else [])]


def runs_text(row: BesideRow) -> str:
    """How many runs the numbers are of, and what became of the others, e.g. ``2 of 3 (1 failed)``."""
    counts = row.counts
    total, finished = sum(counts.values()), row.measured["student"].n if row.measured else 0
    if finished == total:
        return str(total)
    rest = ", ".join(f"{count} {state}" for state, count in counts.items() if state != "done")
    return f"{finished} of {total} ({rest or 'the others without this probe'})"


def with_interval(value: Estimate) -> str:
    """An accuracy in percent with what is known of it, e.g. ``46.0 ± 0.3 [45.2, 46.8]``."""
    spread = "" if value.std is None else f" ± {100 * value.std:.1f}"
    ends = "" if value.low is None or value.high is None else f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    return f"{100 * value.mean:.1f}{spread}{ends}"


def _paper(row: BesideRow) -> list[str]:
    if row.printed is None:
        return [NOTHING, NOTHING, NOTHING]
    teacher = NOTHING if row.printed.teacher is None else f"{row.printed.teacher:.2f}"
    difference = NOTHING if row.difference is None else f"{row.difference:+.1f}"
    return [teacher, f"{row.printed.student:.2f}", difference]


def notes(contents: Contents) -> list[str]:
    """What the comparison with the paper leaves open, in sentences; none without an experiment."""
    if contents.experiment is None:
        return []
    rows = [row for table in contents.tables.values() for row in table]
    printed = [row.printed for row in rows if row.printed is not None]
    found = []
    if any(number.other_data for number in printed):
        found.append("The paper's numbers are of the original data set; ours are of the variant named above.")
    if contents.departures:
        found.append(f"Not the paper's setting: {', '.join(contents.departures)}.")
    if not printed:
        found.append("The paper prints no number for these configurations.")
    else:
        found.append(f"The paper's numbers: {', '.join(dict.fromkeys(number.source for number in printed))}.")
        if contents.which == "last":
            found.append("They are the best over epochs; 'rt-scale report --best' shows ours so, too.")
    return found


def unfinished(contents: Contents) -> list[StatusRow]:
    """The runs without a result."""
    return [status for status in contents.statuses if status.state != "done"]


def configurations(contents: Contents) -> dict[str, tuple[Mapping[str, str], tuple[Member, ...]]]:
    """Key of a configuration -> its values and its runs."""
    found: dict[str, tuple[Mapping[str, str], tuple[Member, ...]]] = {}
    for table in contents.tables.values():
        for row in table:
            found.setdefault(row.key, (row.values, row.members))
    return found
