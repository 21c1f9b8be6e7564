"""Tables of a sweep: teacher, student, input and the student's gain over its own teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from rich.table import Table

from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.metrics import ACCURACY, Bounds, ProbeName, difference_bounds, metric_bounds
from rt_scale.store.interval import LEAST_SEEDS, interval
from rt_scale.store.results import RunResult

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


def probe_keys(points: Iterable[Point]) -> list[str]:
    """The probes that runs may have: on the set that they distil on, then on each other one."""
    others = dict.fromkeys(data for point in points for data in point.spec.probe.also)
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
        low, high: ends of the interval of the mean, see ``interval``; None where there is none.
        n: how many.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
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


def estimate(numbers: Sequence[float], bounds: Bounds) -> Estimate:
    """Mean, standard deviation and interval of ``numbers`` (at least one), each of which lies within ``bounds``."""
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):  # a seed that diverged leaves no spread
        return Estimate(sum(numbers) / len(numbers), None, None, None, len(numbers))
    mean, spread = fmean(numbers), stdev(numbers)
    low, high = (None if math.isnan(end) else float(end) for end in interval(mean, spread, len(numbers), bounds))
    return Estimate(mean, spread, low, high, len(numbers))


def estimates(probe: str, scores: Iterable[tuple[float, float, float]]) -> dict[str, Estimate]:
    """``input``, ``teacher``, ``student``, and ``gain``: the student less its own teacher, paired over seeds.

    Args:
        probe: as of a ``Row``.
        scores: accuracies of input, teacher and student, at least one of each.
    """
    columns = dict(zip(("input", "teacher", "student"), zip(*scores, strict=True), strict=True))
    found = {role: estimate(numbers, metric_bounds(probe_metric(role, probe))) for role, numbers in columns.items()}
    gains = [student - teacher for student, teacher in zip(columns["student"], columns["teacher"], strict=True)]
    return found | {"gain": estimate(gains, difference_bounds(ACCURACY))}


def rows(finished: Iterable[tuple[Point, RunResult]], probe: str, which: Which = "last") -> list[Row]:
    """One row a configuration that has a finished run with this probe, in the sweep's order.

    Args:
        finished: runs and their ``result.json``.
        probe: as of a ``Row``.
        which: the student's accuracy after the last epoch, or its best over the probed epochs
            (what the paper reports). Input and a frozen teacher are probed once; of a teacher that moves it is
            the last.
    """
    groups: dict[str, list[tuple[Point, tuple[float, float, float]]]] = {}
    for point, result in finished:
        last = result.last
        student = last if which == "last" else {name: best.value for name, best in result.best.items()}
        names = [probe_metric(role, probe) for role in ("input", "teacher", "student")]
        if any(name not in last for name in names):
            continue
        numbers = (last[names[0]], last[names[1]], student[names[2]])
        groups.setdefault(point.configuration, []).append((point, numbers))
    return [
        Row(
            values=dict(members[0][0].values),
            probe=probe,
            **estimates(probe, [scores for _, scores in members]),
        )
        for members in groups.values()
    ]


def _percent(value: Estimate) -> str:
    spread = "" if value.std is None else f" ± {100 * value.std:.1f}"
    return f"{100 * value.mean:.1f}{spread}"


def gain_text(value: Estimate) -> str:
    """A difference in percentage points with its interval, if it has one, e.g. ``+26.3 [+15.5, +37.0]``."""
    if value.low is None or value.high is None:
        return f"{100 * value.mean:+.1f}"
    return f"{100 * value.mean:+.1f} [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"


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
        f"with its 95 % interval (Student's t, from {LEAST_SEEDS} seeds on, within ±100)"
    )


def to_rich(table: Sequence[Row], which: Which) -> Table:
    """The rows (at least one) as a table for the terminal."""
    view = Table(title=caption(table[0].probe, which), title_justify="left", title_style="dim")
    for title in header(table):
        view.add_column(title, justify="right", no_wrap=True)
    for row in table:
        view.add_row(*cells(row), style="bold" if row.gain.low is not None and row.gain.low > 0 else "")
    return view


def to_markdown(table: Sequence[Row], which: Which) -> str:
    """The rows (at least one) as a Markdown table under their caption."""
    titles = header(table)
    lines = [caption(table[0].probe, which) + ".", ""]
    lines += [f"| {' | '.join(titles)} |", f"|{' ---: |' * len(titles)}"]
    lines += [f"| {' | '.join(cells(row))} |" for row in table]
    return "\n".join(lines) + "\n"
