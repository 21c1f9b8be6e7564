"""The headline of a report, in words that follow from its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from rt_scale.report.paper import Judged
from rt_scale.report.results import PROBES, ResultRow
from rt_scale.report.statistics import Word
from rt_scale.spec.errors import counted

_BARE = ("encoder", "encoder.name", "data", "data.name", "parts")
"""Axes whose value says what it is."""


def headline(tables: Mapping[str, Sequence[ResultRow]], verdicts: Sequence[Judged]) -> str:
    """What the measured rows of the first probe say of the largest gain, and how many claims hold; empty if neither.

    The largest is named as such, with the number of configurations that it is the largest of.
    """
    rows = next(iter(tables.values()), [])
    found = [_gain(rows)] if rows else []
    if verdicts:
        words = Counter(judged.verdict.word for judged in verdicts)
        listed = ", ".join(f"{words[word]} {word}" for word in get_args(Word) if words[word])
        found.append(f"{counted(len(verdicts), 'claim')} of the paper judged: {listed}.")
    return " ".join(found)


def _gain(rows: Sequence[ResultRow]) -> str:
    clear = [row for row in rows if row.measured["gain"].clear > 0]
    best = max(clear or rows, key=lambda row: row.measured["gain"].mean)
    gain, probe = best.measured["gain"], PROBES[best.probe.partition("@")[0]]
    numbers = f"{gain.points} points over its teacher ({probe}, {counted(gain.n, 'seed')})"
    where = _words(best.shown)
    if len(rows) == 1:
        return f"{where or 'Student'}: {numbers}."
    if clear:
        return f"Best of {len(rows)} configurations: {where}: {numbers}."
    return f"None of {len(rows)} configurations is clear of its teacher; the largest gain is {where}: {numbers}."


def _words(shown: Mapping[str, str]) -> str:
    """The values of the axes, e.g. ``alpha 1e-10, 1,024 outputs``."""
    found = []
    for name, value in shown.items():
        if name in ("out_dim", "outputs") and value.isdigit():
            found.append(f"{int(value):,} outputs")
        elif name in _BARE:
            found.append(value)
        else:
            found.append(f"{name} {value}")
    return ", ".join(found)
