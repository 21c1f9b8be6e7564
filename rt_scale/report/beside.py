"""Ours beside the paper's: one row a configuration and probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rt_scale.report.outcomes import Outcome, outcomes
from rt_scale.report.paper_numbers import Number, number_of
from rt_scale.report.shown import shown_values
from rt_scale.report.status import STYLES, StatusRow
from rt_scale.report.tables import Estimate, Which, estimates
from rt_scale.spec.grid import Point
from rt_scale.store.results import RunResult


@dataclass(frozen=True)
class Member:
    """A run behind a row.

    Attributes:
        seed: its repetition.
        status: how it stands.
    """

    seed: int
    status: StatusRow


@dataclass(frozen=True)
class BesideRow:
    """A configuration under one probe; accuracies in [0, 1] over its finished seeds, the paper's in percent.

    Attributes:
        key: of the configuration, the same under every probe.
        data: names of the data sets that it is distilled on and probed on.
        values: shown name of an axis -> value, as text.
        probe: key of the probe, as in ``tables.Row``.
        measured: ``input``, ``teacher``, ``student`` and ``gain`` (student less its own teacher); empty where no run
            is finished.
        printed: what the paper prints, if it prints anything.
        device_seconds: ``gpu`` or ``cpu`` -> GPU-seconds or core-seconds of its finished runs, under all their probes.
        members: its runs, finished or not.
    """

    key: str
    data: tuple[str, str]
    values: Mapping[str, str]
    probe: str
    measured: Mapping[str, Estimate]
    printed: Number | None
    device_seconds: Mapping[str, float]
    members: tuple[Member, ...]

    @property
    def difference(self) -> float | None:
        """Our student's mean less the paper's, in percentage points."""
        if self.printed is None or not self.measured:
            return None
        return 100 * self.measured["student"].mean - self.printed.student

    @property
    def counts(self) -> dict[str, int]:
        """How many of its runs are in each state."""
        return count_states(member.status for member in self.members)


def count_states(statuses: Iterable[StatusRow]) -> dict[str, int]:
    """State -> number of runs, of states that there are, done first."""
    counts = Counter(status.state for status in statuses)
    return {state: counts[state] for state in STYLES if counts[state]}


def beside(
    points: Sequence[Point],
    results: Mapping[str, RunResult],
    statuses: Mapping[str, StatusRow],
    probe: str,
    which: Which,
    experiment: str | None,
) -> list[BesideRow]:
    """The rows under one probe, in the sweep's order; of configurations without a finished run too.

    Args:
        points: every run.
        results: ``result.json`` of finished runs, by name.
        statuses: how every run stands, by name.
        probe: key of the probe.
        which: the student's epoch.
        experiment: whose numbers stand beside, if any.
    """
    shown = shown_values(points)
    members: dict[str, list[tuple[Point, Outcome]]] = {}
    by_name = {point.spec.name: point for point in points}
    for outcome in outcomes(points, results, probe):
        point = by_name[outcome.run]
        members.setdefault(point.spec.configuration_hash, []).append((point, outcome))
    rows = []
    for key, pairs in members.items():
        first, outcome = pairs[0]
        printed = None if experiment is None else number_of(experiment, outcome.at)
        runs = tuple(Member(point.seed, statuses[point.spec.name]) for point, _ in pairs)
        measured = _measured([each for _, each in pairs], probe, which)
        took = _device_seconds(results[point.spec.name] for point, _ in pairs if point.spec.name in results)
        data = (outcome.at["data"], outcome.at["probed"])
        rows.append(BesideRow(key, data, shown[first.spec.name], probe, measured, printed, took, runs))
    return rows


def _device_seconds(results: Iterable[RunResult]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.device_seconds)
    return dict(total)


def _measured(runs: Sequence[Outcome], probe: str, which: Which) -> dict[str, Estimate]:
    scores = [run.scores for run in runs if run.scores is not None]
    if not scores:
        return {}
    students = [each.student if which == "last" else each.best for each in scores]
    return estimates(
        probe, [(each.input, each.teacher, student) for each, student in zip(scores, students, strict=True)]
    )
