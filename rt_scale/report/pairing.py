"""Runs set against each other: grouped by what they share, paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rt_scale.report.outcomes import Outcome, Scores


def groups(runs: Iterable[Outcome], over: Sequence[str]) -> list[tuple[dict[str, Any], list[Outcome]]]:
    """Runs that differ in ``over`` alone, and in what goes with it one to one, each group with all that it shares.

    Args:
        runs: under any probes.
        over: keys of ``Outcome.at``.
    """
    members = list(runs)
    by_over: dict[str, list[Outcome]] = {}
    for run in members:
        by_over.setdefault(repr([run.at.get(key) for key in over]), []).append(run)
    keys = [key for key in dict.fromkeys(key for run in members for key in run.at) if key not in over]
    if over and len(by_over) > 1:
        keys = [key for key in keys if not _follows(key, by_over.values())]
    found: dict[str, tuple[dict[str, Any], list[Outcome]]] = {}
    for run in members:
        shared = {key: run.at.get(key) for key in keys}
        found.setdefault(repr(shared), (shared, []))[1].append(run)
    return list(found.values())


def _follows(key: str, by_over: Iterable[list[Outcome]]) -> bool:
    """Whether the value of ``key`` is decided by what varies, and not the same for all."""
    values = [{repr(run.at.get(key)) for run in runs} for runs in by_over]
    return all(len(each) == 1 for each in values) and len(set.union(*values)) > 1


def scored(runs: Iterable[Outcome]) -> list[Scores]:
    """What the finished ones reached."""
    return [run.scores for run in runs if run.scores is not None]


def gains(runs: Iterable[Outcome]) -> list[float]:
    """Student less its own teacher, of every finished run."""
    return [scores.student - scores.teacher for scores in scored(runs)]


def by(runs: Iterable[Outcome], key: str) -> dict[Any, list[Outcome]]:
    """The runs by their value of ``key``, as in ``Outcome.at``; those without a result too."""
    found: dict[Any, list[Outcome]] = {}
    for run in runs:
        found.setdefault(run.at[key], []).append(run)
    return found


def by_seed(runs: Iterable[Outcome], key: str) -> dict[int, dict[Any, float]]:
    """Seed -> value of ``key`` -> accuracy of the student, of finished runs."""
    found: dict[int, dict[Any, float]] = {}
    for run in runs:
        if run.scores is not None:
            found.setdefault(run.seed, {})[run.at[key]] = run.scores.student
    return found


def paired(runs: Iterable[Outcome], others: Iterable[Outcome]) -> list[float]:
    """Student less the student of the other run of its seed, for seeds that have both."""
    theirs = {run.seed: run.scores.student for run in others if run.scores is not None}
    return [run.scores.student - theirs[run.seed] for run in runs if run.scores is not None and run.seed in theirs]
