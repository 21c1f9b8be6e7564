"""Runs under one probe, and the rows of results tables made from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, Literal

from rt_scale.report.paper_numbers import START, Number, data_words, number_of, shown_values
from rt_scale.report.statistics import ROLES, Estimate, estimate, estimates
from rt_scale.report.status import STYLES
from rt_scale.spec.experiments.training import TrainingSpec, training
from rt_scale.spec.grid import Point, grouped
from rt_scale.spec.metrics import ProbeName, extra_name, parse_extra_name
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
"""Probe name -> title. The key of a probe on another data set is ``<probe>@<data>``."""
KNOWN = {
    "data.name": "data",
    "data.samples": "samples",
    "data.sigma": "sigma",
    "encoder.name": "encoder",
    "encoder.norm": "norm",
    "student.alpha": "alpha",
    "projector.out_dim": "outputs",
    "projector.bottleneck": "bottleneck",
    "projector.parts": "parts",
    "teacher.update": "update",
    "teacher.momentum": "momentum",
}
"""Fields of a run that the paper's experiments vary -> their names in reports."""
EPOCH = {
    "last": "student after its last epoch",
    "best": "student at its best probed epoch, as the paper reports it (a maximum over the test split)",
}
"""``Which`` -> description of the student's numbers."""
NOTHING = "-"
"""Text of a cell without a number."""
Which = Literal["last", "best"]
Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a metric -> (epoch, value) as measured, in order."""


@dataclass(frozen=True)
class Scores:
    """The accuracies of a finished run in [0, 1], after the last epoch.

    Attributes:
        best: accuracy of the student at its best probed epoch.
        curve: (epoch, accuracy of the student) at every probing; empty if metrics were not read.
        moved: final distance of the student from its start; None if not measured.
    """

    input: float
    teacher: float
    student: float
    best: float
    curve: Sequence[tuple[float, float]] = ()
    moved: float | None = None

    def student_at(self, which: Which) -> float:
        """The student's accuracy at its last or its best epoch."""
        return self.student if which == "last" else self.best


@dataclass(frozen=True)
class ProbedRun:
    """One run under one probe.

    Attributes:
        run: name of its directory.
        at: its configuration: ``data``, ``probed`` (the data set of the probe), ``probe``, ``round``,
            ``teacher`` (how it moves), the values of :data:`KNOWN`, and every other axis by its dotted field.
        start: name of the run whose student is its teacher; None for a random teacher.
        device_seconds: ``gpu`` or ``cpu`` -> GPU-seconds or core-seconds of the whole run.
    """

    run: str
    seed: int
    at: Mapping[str, Any]
    start: str | None = None
    scores: Scores | None = None
    state: str = "done"
    device_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultRow:
    """One line of a results table: a configuration under one probe, over its seeds.

    Attributes:
        key: of the configuration, the same under every probe.
        probe: key of the probe, see :data:`PROBES`.
        values: the axes' values, by dotted field.
        shown: the same for readers: shown name of an axis -> value as text.
        runs: one per seed, finished or not.
        measured: ``input``, ``teacher``, ``student`` and ``gain`` (student - own teacher), accuracies in [0, 1] over
            finished seeds; empty if there are none.
        printed: the paper's number in percent, if any.
    """

    key: str
    probe: str
    values: Mapping[str, Any]
    shown: Mapping[str, str]
    runs: tuple[ProbedRun, ...]
    measured: Mapping[str, Estimate]
    printed: Number | None = None

    @property
    def data(self) -> tuple[str, str]:
        """Names of the data sets of distillation and probe."""
        return self.runs[0].at["data"], self.runs[0].at["probed"]

    @property
    def n(self) -> int:
        """Number of runs behind the measurements."""
        return self.measured["student"].n if self.measured else 0

    @property
    def counts(self) -> dict[str, int]:
        """State -> number of its runs."""
        return count_states(run.state for run in self.runs)

    @property
    def device_seconds(self) -> dict[str, float]:
        """The sum over its finished runs, see ``ProbedRun``."""
        total: Counter[str] = Counter()
        for run in self.runs:
            total.update(run.device_seconds)
        return dict(total)

    @property
    def difference(self) -> float | None:
        """Our student's mean less the paper's, in percentage points."""
        if self.printed is None or self.printed.student is None or not self.measured:
            return None
        return 100 * self.measured["student"].mean - self.printed.student

    @property
    def runs_text(self) -> str:
        """Number of measured runs, and the states of the others, e.g. ``2 of 3 (1 failed)``."""
        if self.n == len(self.runs):
            return str(self.n)
        rest = ", ".join(f"{count} {state}" for state, count in self.counts.items() if state != "done")
        return f"{self.n} of {len(self.runs)} ({rest or 'the others without this probe'})"

    def measured_texts(self, *, intervals: bool = True) -> list[str]:
        """Input, teacher, student and gain as text; the gain always has its interval."""
        if not self.measured:
            return [NOTHING] * 4
        roles = [self.measured[role] for role in ROLES]
        return [*(each.percent_interval if intervals else each.percent for each in roles), self.measured["gain"].points]

    def to_json(self) -> dict[str, object]:
        """Values and measurements as plain values."""
        measured = {role: asdict(value) for role, value in self.measured.items()}
        return {"values": dict(self.values), "probe": self.probe, **measured}


def probed_runs(
    points: Iterable[Point],
    results: Mapping[str, RunResult],
    states: Mapping[str, str],
    probe: str,
    metrics: Mapping[str, Series] | None = None,
) -> list[ProbedRun]:
    """The runs that have a probe, finished or not; the mappings are by the run's name."""
    found = []
    for point in points:
        if probe not in point.spec.probes:
            continue
        spec, name = training(point.spec), point.spec.name
        result = results.get(name)
        scores = None if result is None else _scores(result, probe, (metrics or {}).get(name, {}))
        first = _first_round(spec)
        took = {} if result is None else result.device_seconds
        before = None if first is None else first.name
        found.append(ProbedRun(name, point.seed, configuration(point, probe), before, scores, states[name], took))
    return found


def result_rows(
    points: Sequence[Point], runs: Mapping[str, Sequence[ProbedRun]], which: Which, experiment: str | None = None
) -> dict[str, list[ResultRow]]:
    """Key of a probe -> its rows in the sweep's order, also for configurations without a finished run.

    ``runs`` are those of ``points`` by probe; ``which`` chooses the student's epoch, while input and teacher are of the
    last; ``experiment`` adds the paper's numbers.
    """
    by_name, shown = {point.spec.name: point for point in points}, shown_values(points)
    alike = {name: _alike(point) for name, point in by_name.items()}
    keys = {each: f"configuration-{number}" for number, each in enumerate(dict.fromkeys(alike.values()), 1)}
    tables = {}
    for probe, members in runs.items():
        groups = grouped(members, lambda run: keys[alike[run.run]])
        tables[probe] = [
            ResultRow(
                key=key,
                probe=probe,
                values=by_name[group[0].run].values,
                shown=shown[group[0].run],
                runs=tuple(group),
                measured=_measured(group, which),
                printed=number_of(experiment, group[0].at),
            )
            for key, group in groups.items()
        ]
    return tables


def _alike(point: Point) -> str:
    """A key of the configuration: all but the seeds, unless an axis varies them."""
    seeds = {key: value for key, value in point.values.items() if key.startswith("seeds.")}
    return f"{point.spec.configuration_hash} {seeds}"


def _measured(runs: Sequence[ProbedRun], which: Which) -> dict[str, Estimate]:
    scores = [run.scores for run in runs if run.scores is not None]
    return estimates((each.input, each.teacher, each.student_at(which)) for each in scores) if scores else {}


def plugin_table(points: Sequence[Point], results: Mapping[str, RunResult]) -> list[list[str]]:
    """Titles, then a row for each number of plugins' probes in each configuration; empty if there are none.

    Numbers are of the last epoch, mean and standard deviation over seeds.
    """
    shown, rows = shown_values(points), []
    for members in grouped([point for point in points if point.spec.name in results], _alike).values():
        last = [results[point.spec.name].last for point in members]
        names = dict.fromkeys(found._replace(role="") for name in last[0] if (found := parse_extra_name(name)))
        for name in names:
            columns = ([each.get(extra_name(name._replace(role=role))) for each in last] for role in ROLES)
            cells = [_plain_number([value for value in column if value is not None]) for column in columns]
            probe = f"{name.probe} on {name.data}" if name.data else name.probe
            rows.append([*shown[members[0].spec.name].values(), probe, str(len(members)), *cells])
    return [[*shown[points[0].spec.name], "probe", "runs", *ROLES], *rows] if rows else []


def _plain_number(values: Sequence[float]) -> str:
    """Mean and standard deviation, or what stands for no number."""
    if not values:
        return NOTHING
    found = estimate(values, (-math.inf, math.inf))
    return f"{found.mean:.4g}" + ("" if found.std is None else f" ± {found.std:.2g}")


def count_states(states: Iterable[str]) -> dict[str, int]:
    """State -> number of runs, without zeros, done first."""
    counts = Counter(states)
    return {state: counts[state] for state in STYLES if counts[state]}


def probe_title(key: str) -> str:
    """The title of a probe's key, ``linear`` or ``linear@cifar100``."""
    probe, _, data = key.partition("@")
    return f"{PROBES[probe]} on {data}" if data else PROBES[probe]


def probe_keys(points: Sequence[Point]) -> list[str]:
    """The keys of the runs' probes: those on the set of distillation, then those on each other set."""
    found = dict.fromkeys(key for point in points for key in point.spec.probes)
    others = dict.fromkeys(data for key in found if (data := key.partition("@")[2]))
    keys = [*PROBES, *(f"{probe}@{data}" for data in others for probe in PROBES)]
    return [key for key in keys if key in found]


def probe_metric(role: str, key: str) -> str:
    """The name of the metric of ``role`` under a probe, e.g. ``probe@cifar100/student/linear``."""
    probe, _, data = key.partition("@")
    return str(ProbeName(role, probe, data or None))


def titled_probe(rows: Sequence[ResultRow]) -> str:
    """The title of the rows' probe, with the data sets that the rows (at least one) share."""
    words = data_words(row.data for row in rows)
    return ", ".join([PROBES[rows[0].probe.partition("@")[0]], *([words] if words else [])])


def configuration(point: Point, probe: str) -> dict[str, Any]:
    """``ProbedRun.at`` of a run under a probe."""
    spec, (kind, _, data) = training(point.spec), probe.partition("@")
    at: dict[str, Any] = {"data": spec.data.name, "probed": data or spec.data.name, "probe": kind}
    at |= {name: attrgetter(key)(spec) for key, name in KNOWN.items()}
    at["round"] = _round(spec)
    moves = {"none": "frozen", "ema": f"average, {spec.teacher.momentum}", "previous_epoch": "copy"}
    at["teacher"] = moves[spec.teacher.update]
    return at | {key: value for key, value in point.values.items() if key not in KNOWN and not key.startswith(START)}


def with_first_rounds(points: Sequence[Point]) -> list[Point]:
    """The points, followed by the runs whose students are their teachers, if missing."""
    known = {point.spec.name for point in points}
    found = list(points)
    for point in points:
        first = _first_round(training(point.spec))
        if first is not None and first.name not in known:
            known.add(first.name)
            values = {key: value for key, value in point.values.items() if not key.startswith(START)}
            found.append(Point(values, point.seed, first))
    return found


def _first_round(spec: TrainingSpec) -> TrainingSpec | None:
    """The run whose student is the teacher of this one."""
    start = spec.teacher.start_from
    return start.run if start is not None and start.take == "student" else None


def series(metrics: Mapping[str, Sequence[Any]]) -> dict[str, list[tuple[float, float]]]:
    """Name -> (epoch, value) pairs, sorted, from the columns ``epoch``, ``name`` and ``value`` of a metrics table."""
    found: dict[str, list[tuple[float, float]]] = {}
    for epoch, name, value in zip(metrics["epoch"], metrics["name"], metrics["value"], strict=True):
        found.setdefault(name, []).append((epoch, value))
    return {name: sorted(values) for name, values in found.items()}


def _scores(result: RunResult, probe: str, metrics: Series) -> Scores | None:
    last = result.last
    names = {role: probe_metric(role, probe) for role in ROLES}
    if any(name not in last for name in names.values()):
        return None
    return Scores(
        **{role: last[name] for role, name in names.items()},
        best=best.value if (best := result.best.get(names["student"])) else last[names["student"]],
        curve=metrics.get(names["student"], ()),
        moved=last.get("distance/from_init"),
    )


def _round(spec: TrainingSpec) -> int:
    """1 for a random teacher, 2 for one that is the student of such a run, ..."""
    first = _first_round(spec)
    return 1 if first is None else 1 + _round(first)
