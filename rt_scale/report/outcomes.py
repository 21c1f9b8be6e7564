"""Runs as claims and tables see them: what was done, and what came of it under one probe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rt_scale.report.tables import probe_metric
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import RunResult

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
"""Fields of a run that the paper's experiments vary, and what they are called here."""
_START = "teacher.start_from"
Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a metric -> (epoch, value) as measured, in order."""


@dataclass(frozen=True)
class Scores:
    """What a finished run reached; accuracies in [0, 1].

    Attributes:
        input, teacher: accuracies of the input pixels and, after the last epoch, of the teacher.
        student: of the student after the last epoch.
        best: of the student at its best probed epoch.
        curve: (epoch, accuracy of the student) at every probing; empty where metrics were not read.
        moved: distance of the student from its own start at the end; None where it was not measured.
    """

    input: float
    teacher: float
    student: float
    best: float
    curve: Sequence[tuple[float, float]] = ()
    moved: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One run under one probe.

    Attributes:
        run: name of its directory.
        seed: its repetition.
        at: what was done: ``data``, ``probed`` (the data set of the probe), ``probe``, ``round``,
            ``teacher`` (how it moves), the values of :data:`KNOWN`, and by its dotted field every other axis.
        start: name of the run whose student is its teacher; None of a random teacher.
        scores: what it reached; None where it has no result.
    """

    run: str
    seed: int
    at: Mapping[str, Any]
    start: str | None = None
    scores: Scores | None = None


def outcomes(
    points: Iterable[Point],
    results: Mapping[str, RunResult],
    probe: str,
    metrics: Mapping[str, Series] | None = None,
) -> list[Outcome]:
    """The runs that have a probe, finished or not.

    Args:
        points: runs of a sweep.
        results: ``result.json`` of those that are finished, by name.
        probe: key of a probe as in ``tables.Row``.
        metrics: measured values of finished runs by name, for curves.
    """
    found = []
    for point in points:
        spec = point.spec
        if not has_probe(spec, probe):
            continue
        result = results.get(spec.name)
        scores = None if result is None else _scores(result, probe, (metrics or {}).get(spec.name, {}))
        start = spec.teacher.start_from
        found.append(Outcome(spec.name, point.seed, done(point, probe), start.run.name if start else None, scores))
    return found


def has_probe(spec: RunSpec, probe: str) -> bool:
    """Whether runs of ``spec`` are probed so, on a set with labels."""
    kind, _, data = probe.partition("@")
    if kind not in spec.probe.kinds:
        return False
    return data in spec.probe.also if data else spec.probe.own and spec.data.name != GAUSSIAN


def done(point: Point, probe: str) -> dict[str, Any]:
    """``Outcome.at`` of a run under a probe."""
    spec, (kind, _, data) = point.spec, probe.partition("@")
    at: dict[str, Any] = {"data": spec.data.name, "probed": data or spec.data.name, "probe": kind}
    at |= {name: _field(spec, key) for key, name in KNOWN.items()}
    at["round"] = _round(spec)
    at["teacher"] = {"none": "frozen", "ema": f"average, {spec.teacher.momentum}"}.get(spec.teacher.update, "copy")
    return at | {key: value for key, value in point.values.items() if key not in KNOWN and not key.startswith(_START)}


def with_first_rounds(points: Sequence[Point]) -> list[Point]:
    """The points, and behind them the runs whose students are their teachers, where they are not among them."""
    known = {point.spec.name for point in points}
    found = list(points)
    for point in points:
        start = point.spec.teacher.start_from
        if start is not None and start.run.name not in known:
            known.add(start.run.name)
            values = {key: value for key, value in point.values.items() if not key.startswith(_START)}
            found.append(Point(values, point.seed, start.run))
    return found


def series(metrics: Mapping[str, Sequence[Any]]) -> dict[str, list[tuple[float, float]]]:
    """Measured values by name, from the columns ``epoch``, ``name`` and ``value`` of a run's metrics table."""
    found: dict[str, list[tuple[float, float]]] = {}
    for epoch, name, value in zip(metrics["epoch"], metrics["name"], metrics["value"], strict=True):
        found.setdefault(name, []).append((epoch, value))
    return {name: sorted(values) for name, values in found.items()}


def _scores(result: RunResult, probe: str, metrics: Series) -> Scores | None:
    last = result.last
    names = {role: probe_metric(role, probe) for role in ("input", "teacher", "student")}
    if any(name not in last for name in names.values()):
        return None
    return Scores(
        **{role: last[name] for role, name in names.items()},
        best=best.value if (best := result.best.get(names["student"])) else last[names["student"]],
        curve=metrics.get(names["student"], ()),
        moved=last.get("distance/from_init"),
    )


def _field(spec: RunSpec, key: str) -> Any:
    value: Any = spec
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _round(spec: RunSpec) -> int:
    """1 for a random teacher, 2 for one that is the student of such a run, ..."""
    start = spec.teacher.start_from
    return 1 if start is None or start.take != "student" else 1 + _round(start.run)
