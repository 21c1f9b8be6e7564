"""Tables of a sweep: teacher, student, input and the student's gain over its own teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from rich.table import Table

from rt_scale.spec.axes import axis_names, value_label
from rt_scale.spec.metric_names import ProbeName
from rt_scale.spec.sweep import Point
from rt_scale.store.interval import half_width

PROBES = {
    "linear": "linear probe",
    "knn": "k-nearest-neighbour probe",
    "linear_standardized": "linear probe, standardised features",
    "knn_standardized": "k-nearest-neighbour probe, standardised features",
    "logistic": "logistic regression to convergence (not the paper's probe)",
    "ridge": "ridge classifier (not the paper's probe)",
    "logistic_standardized": "logistic regression to convergence, standardised features (not the paper's probe)",
    "ridge_standardized": "ridge classifier, standardised features (not the paper's probe)",
}
"""Probes by name, with their titles."""


def probe_title(key: str) -> str:
    """What is measured: the title of ``linear``, say, or of ``linear@cifar100``, on that data set."""
    probe, _, data = key.partition("@")
    return f"{PROBES[probe]} on {data}" if data else PROBES[probe]


def probe_keys(finished: Iterable[tuple[Point, Mapping[str, Any]]]) -> list[str]:
    """The probes that runs may have: on the set that they distil on, then on each other one."""
    others = dict.fromkeys(data for point, _ in finished for data in point.spec.probe.also)
    return [*PROBES, *(f"{probe}@{data}" for data in others for probe in PROBES)]


def probe_metric(role: str, key: str) -> str:
    """The name of the metric of ``role`` under a probe, e.g. ``probe@cifar100/student/linear``."""
    probe, _, data = key.partition("@")
    return str(ProbeName(role, probe, data or None))


Which = Literal["last", "best"]


@dataclass(frozen=True)
class Estimate:
    """Mean of n numbers with their spread.

    Attributes:
        mean: arithmetic mean.
        std: sample standard deviation; None for one number.
        half_width: half of the two-sided 95 % interval of the mean by Student's t; None for one number.
        n: how many.
    """

    mean: float
    std: float | None
    half_width: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One configuration of a sweep under one probe; accuracies in [0, 1], over its finished seeds.

    Attributes:
        values: the axes' values.
        probe: key of ``PROBES``, with ``@<data>`` after it on another data set than the one distilled on.
        input, teacher, student: accuracies.
        gain: student less its own teacher, paired over seeds.
    """

    values: dict[str, Any]
    probe: str
    input: Estimate
    teacher: Estimate
    student: Estimate
    gain: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def estimate(numbers: Sequence[float]) -> Estimate:
    """Mean, standard deviation and 95 % interval of ``numbers`` (at least one)."""
    if len(numbers) < 2:
        return Estimate(numbers[0], None, None, 1)
    spread = stdev(numbers)
    return Estimate(fmean(numbers), spread, half_width(spread, len(numbers)), len(numbers))


def rows(finished: Iterable[tuple[Point, Mapping[str, Any]]], probe: str, which: Which = "last") -> list[Row]:
    """One row a configuration that has a finished run with this probe, in the sweep's order.

    Args:
        finished: runs and their ``result.json``.
        probe: as of a ``Row``.
        which: the student's accuracy after the last epoch, or its best over the probed epochs
            (what the paper reports). Input and a frozen teacher are probed once; of a teacher that moves it is
            the last.
    """
    groups: dict[str, list[tuple[Point, float, float, float]]] = {}
    for point, result in finished:
        last = result["last"]
        student = last if which == "last" else {name: best["value"] for name, best in result["best"].items()}
        names = [probe_metric(role, probe) for role in ("input", "teacher", "student")]
        if any(name not in last for name in names):
            continue
        numbers = (last[names[0]], last[names[1]], student[names[2]])
        groups.setdefault(point.configuration, []).append((point, *numbers))
    return [
        Row(
            values=dict(members[0][0].values),
            probe=probe,
            input=estimate([member[1] for member in members]),
            teacher=estimate([member[2] for member in members]),
            student=estimate([member[3] for member in members]),
            gain=estimate([member[3] - member[2] for member in members]),
        )
        for members in groups.values()
    ]


def _percent(value: Estimate) -> str:
    spread = "" if value.std is None else f" ± {100 * value.std:.1f}"
    return f"{100 * value.mean:.1f}{spread}"


def gain_text(value: Estimate) -> str:
    """A difference in percentage points with its 95 % interval, e.g. ``+26.3 [+15.5, +37.0]``."""
    mean = 100 * value.mean
    if value.half_width is None:
        return f"{mean:+.1f}"
    half = 100 * value.half_width
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def header(table: Sequence[Row]) -> list[str]:
    """Column titles: the axes, then what was measured."""
    keys = list(table[0].values) if table else []
    return [*axis_names(keys).values(), "runs", "input", "teacher", "student", "gain [95 %]"]


def cells(row: Row) -> list[str]:
    """The row as text, accuracies in percent as mean ± standard deviation."""
    axes = [value_label(value) for value in row.values.values()]
    measured = [_percent(row.input), _percent(row.teacher), _percent(row.student), gain_text(row.gain)]
    return [*axes, str(row.gain.n), *measured]


def caption(probe: str, which: Which) -> str:
    """What the numbers of a table are."""
    return (
        f"{probe_title(probe)}: test accuracy in %, mean ± standard deviation over seeds; student after its "
        f"{which} {'epoch' if which == 'last' else 'probed epoch'}; gain = student less its own teacher, "
        "with its 95 % interval"
    )


def to_rich(table: Sequence[Row], which: Which) -> Table:
    """The rows (at least one) as a table for the terminal."""
    view = Table(title=caption(table[0].probe, which), title_justify="left", title_style="dim")
    for title in header(table):
        view.add_column(title, justify="right", no_wrap=True)
    for row in table:
        low = row.gain.mean - (row.gain.half_width or 0.0)
        view.add_row(*cells(row), style="bold" if row.gain.half_width is not None and low > 0 else "")
    return view


def to_markdown(table: Sequence[Row], which: Which) -> str:
    """The rows (at least one) as a Markdown table under their caption."""
    titles = header(table)
    lines = [caption(table[0].probe, which) + ".", ""]
    lines += [f"| {' | '.join(titles)} |", f"|{' ---: |' * len(titles)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in table]
    return "\n".join(lines) + "\n"
