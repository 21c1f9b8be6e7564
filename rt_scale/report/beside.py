"""Last and best epoch in one table, what choosing the best is worth, and the paper's numbers beside both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import pyarrow as pa

from rt_scale.report.claims import MARGIN
from rt_scale.report.results import NOTHING, ResultRow, Scores
from rt_scale.report.statistics import DIFFERENCES, ROLES, Estimate, Word, estimate, judge
from rt_scale.spec.metrics import ACCURACY

LAST_AND_BEST = (
    "Accuracies in %, mean ± standard deviation over seeds with the 95 % interval of the mean. The best is the largest "
    "of the probed epochs, on the test split. Choice: what of it is owed to choosing it there, that is the mean over "
    "seeds of the largest accuracy less the accuracy of the same seed at the epoch that is best in the mean of the "
    "other seeds."
)
BESIDE = (
    "The paper's numbers are the best over epochs and have no spread; a frozen teacher and the input are probed once, "
    "so ours are one number. Differences are ours less the paper's, in points. As the paper: whether the mean "
    f"difference, of the student at its best, is within {100 * MARGIN:g} points by both its one-sided 95 % limits."
)
"""The captions of the table, of its own columns and of the paper's."""


@dataclass(frozen=True)
class BesideRow:
    """The student, the teacher or the input (``of``) of a configuration under one probe.

    Attributes:
        probe: key of the probe.
        shown: name of an axis -> value as text; empty for the input, which configurations share.
        last, best: accuracies in [0, 1]; the same for what is probed once.
        chosen: see :func:`selection_bias`; None where it cannot be estimated.
        printed: the paper's number in percent.
        verdict: whether the best is the paper's within ``MARGIN``; None without a printed number.
    """

    of: str
    probe: str
    shown: Mapping[str, str]
    runs: str
    last: Estimate
    best: Estimate
    chosen: Estimate | None = None
    printed: float | None = None
    source: str = ""
    verdict: Word | None = None

    def less_paper(self, ours: Estimate) -> Estimate | None:
        """``ours`` less the paper's number, whose own error is unknown and counts as 0."""
        if self.printed is None:
            return None
        paper = self.printed / 100
        low, high = (None if end is None else end - paper for end in (ours.low, ours.high))
        return replace(ours, mean=ours.mean - paper, low=low, high=high)

    def texts(self) -> list[str]:
        """The cells after the axes."""
        once = self.of != "student"
        differences = [self.less_paper(self.last), None if once else self.less_paper(self.best)]
        return [
            self.probe,
            self.of,
            self.runs,
            self.last.percent_interval,
            NOTHING if once else self.best.percent_interval,
            NOTHING if self.chosen is None else self.chosen.points,
            NOTHING if self.printed is None else f"{self.printed:.2f}",
            *(NOTHING if each is None else each.points for each in differences),
            self.verdict or NOTHING,
        ]


TITLES = ("probe", "of", "runs", "last", "best", "choice", "paper", "last - paper", "best - paper", "as the paper")
"""Of :meth:`BesideRow.texts`."""


def selection_bias(curves: Sequence[Sequence[float]]) -> list[float]:
    """For each seed, what its best accuracy gains by being chosen on the test split.

    With the accuracy a_s(e) of seed s at evaluation e,

        b_s = max_e a_s(e) - a_s(argmax_e sum_{r != s} a_r(e)),

    which is never negative: the epoch of the second term is chosen without looking at seed s (the first of equals). A
    peak that all seeds have costs nothing; for E evaluations that differ by independent noise alone, the mean of b_s is
    the expected maximum of the noise. With many seeds it tends to E[max_e a_s(e)] - max_e E[a_s(e)]; with few it is
    larger, as the mean of the others is noisy, too.

    Args:
        curves: accuracies at the same evaluations, one sequence a seed, of at least two seeds.
    """
    sums = [sum(column) for column in zip(*curves, strict=True)]
    if len(curves) < 2:
        raise ValueError("of one seed there are no other seeds to choose the epoch by")
    found = []
    for curve in curves:
        others = [total - own for total, own in zip(sums, curve, strict=True)]
        found.append(max(curve) - curve[others.index(max(others))])
    return found


class _Measured(NamedTuple):
    last: Estimate
    best: Estimate
    chosen: Estimate | None


def beside_rows(tables: Mapping[str, Sequence[ResultRow]]) -> list[BesideRow]:
    """The students that were probed more than once, and every number that the paper prints, of measured rows by probe.

    An input that several configurations share has one row.
    """
    found: dict[object, BesideRow] = {}
    for row in (row for rows in tables.values() for row in rows if row.measured):
        scores = [run.scores for run in row.runs if run.scores is not None]
        for role in reversed(ROLES):
            printed = None if row.printed is None else getattr(row.printed, role)
            measured = _student(scores) if role == "student" else _constant(scores, role)
            if printed is None and measured.last == measured.best:
                continue
            shared = role == "input"
            made = BesideRow(
                of=role, probe=row.probe, shown=dict.fromkeys(row.shown, NOTHING) if shared else row.shown,
                runs=row.runs_text, **measured._asdict(), printed=printed,
                source="" if row.printed is None or printed is None else row.printed.source,
                verdict=None if printed is None else _verdict(scores, role, printed),
            )  # fmt: skip
            found.setdefault((row.probe, row.data, measured, printed) if shared else (row.probe, row.key, role), made)
    return list(found.values())


def _student(scores: Sequence[Scores]) -> _Measured:
    epochs = [[epoch for epoch, _ in each.curve] for each in scores]
    alike = len(scores) > 1 and len(epochs[0]) > 1 and all(each == epochs[0] for each in epochs)
    bias = selection_bias([[value for _, value in each.curve] for each in scores]) if alike else None
    last, best = ([each.student_at(which) for each in scores] for which in ("last", "best"))
    return _Measured(
        estimate(last, ACCURACY), estimate(best, ACCURACY), None if bias is None else estimate(bias, DIFFERENCES)
    )


def _constant(scores: Sequence[Scores], role: str) -> _Measured:
    once = estimate([getattr(each, role) for each in scores], ACCURACY)
    return _Measured(once, once, None)


def _verdict(scores: Sequence[Scores], role: str, printed: float) -> Word:
    ours = [each.best if role == "student" else getattr(each, role) for each in scores]
    return judge({role: [value - printed / 100 for value in ours]}, above=-MARGIN, below=MARGIN).word


def beside_cells(rows: Sequence[BesideRow]) -> list[list[str]]:
    """The rows (at least one) as a table for people, titles first."""
    paper = any(row.printed is not None for row in rows)
    kept = len(TITLES) if paper else TITLES.index("paper")
    return [[*rows[0].shown, *TITLES[:kept]], *([*row.shown.values(), *row.texts()[:kept]] for row in rows)]


def beside_table(rows: Iterable[BesideRow]) -> pa.Table:
    """One line a row: our accuracies in [0, 1], the paper's in percent."""
    lines = []
    for row in rows:
        numbers = {f"{name}_{part}": getattr(value, part, None)
                   for name, value in (("last", row.last), ("best", row.best), ("choice", row.chosen))
                   for part in ("mean", "std", "low", "high")}  # fmt: skip
        about = {"probe": row.probe, "of": row.of, "runs": row.runs, "n": row.last.n}
        paper = {"paper": row.printed, "source": row.source, "as_the_paper": row.verdict}
        lines.append({**row.shown, **about, **numbers, **paper})
    return pa.Table.from_pylist(lines)
