"""What differences over seeds show: one rule, by Student's t, for every claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from rt_scale.spec.metrics import ACCURACY, Bounds, difference_bounds
from rt_scale.store.interval import LEAST_SEEDS, interval

Word = Literal["holds", "fails", "undecided"]
_DIFFERENCES = difference_bounds(ACCURACY)
LEVEL = 0.95
"""Confidence of a one-sided limit."""
_EXACT = 1e-9
"""What rounding of the numbers may amount to: equal for all seeds, a difference of it is none."""


@dataclass(frozen=True)
class Limits:
    """One-sided confidence limits of a mean, each of the same confidence.

    Attributes:
        mean: of the numbers.
        low, high: the limits.
        n: how many numbers.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """What runs say on a claim.

    Attributes:
        word: holds, fails or undecided.
        why: in a sentence or two.
        numbers: what it rests on, by name: limits of means over seeds.
    """

    word: Word
    why: str
    numbers: Mapping[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How numbers are written.

    Attributes:
        factor: by which they are multiplied.
        unit: behind them.
        signed: whether a plus is written.
        bounds: what the numbers can be.
    """

    factor: float = 100.0
    unit: str = "points"
    signed: bool = True
    bounds: Bounds = _DIFFERENCES

    def text(self, limits: Limits) -> str:
        """The mean with its limits, e.g. ``+10.0 [+1.3, +18.6] points, n = 3``."""
        mean, low, high = (self.number(value) for value in (limits.mean, limits.low, limits.high))
        return f"{mean} [{low}, {high}] {self.unit}, n = {limits.n}"

    def number(self, value: float) -> str:
        """One number without its unit."""
        digits = 1 if self.factor != 1 else 2
        scaled = round(self.factor * value, digits)
        return f"{scaled:{'+' if self.signed else ''}.{digits}f}" if scaled else f"{0:.{digits}f}"


POINTS = Scale()
"""Differences of accuracies in percentage points."""


def limits(numbers: Sequence[float], level: float = LEVEL, bounds: Bounds = POINTS.bounds) -> Limits:
    """Confidence limits of the mean, see ``interval``.

    Args:
        numbers: one a seed, at least :data:`LEAST_SEEDS`.
        level: confidence of each limit on its own.
        bounds: what the numbers can be.
    """
    mean, n = fmean(numbers), len(numbers)
    low, high = (float(end) for end in interval(mean, stdev(numbers), n, bounds, level))
    return Limits(mean, low, high, n)


def judge(
    numbers: Mapping[str, Sequence[float]],
    *,
    above: float = -math.inf,
    below: float = math.inf,
    scale: Scale = POINTS,
) -> Verdict:
    """Whether the mean of every part lies between two bounds.

    ``holds``: every part has at least :data:`LEAST_SEEDS` numbers, and both its one-sided 95 % limits lie between the
    bounds (between two finite bounds that is the two one-sided tests of equivalence). ``fails``: some part with so many
    numbers has a limit beyond a bound even at confidence 1 - 0.05 / k, k being the number of parts (Bonferroni: with
    many parts one is beyond by chance). ``undecided``: all else, and where there are no parts.

    Args:
        numbers: part -> one number a seed.
        above: what the mean must exceed.
        below: what the mean must stay under.
        scale: how numbers are written.
    """
    if not numbers:
        return Verdict("undecided", "no run that could tell is part of the sweep")
    enough = {name: values for name, values in numbers.items() if len(values) >= LEAST_SEEDS}
    found = {name: limits(values, LEVEL, scale.bounds) for name, values in enough.items()}
    hard = {name: limits(values, 1 - (1 - LEVEL) / len(numbers), scale.bounds) for name, values in enough.items()}
    beyond = [name for name, each in hard.items() if each.high < above - _EXACT or each.low > below + _EXACT]
    wanted = _wanted(above, below, scale)
    if beyond:
        return Verdict("fails", f"{_listed({name: found[name] for name in beyond}, scale)}; wanted: {wanted}", found)
    few = [f"{name}: {len(values)}" for name, values in numbers.items() if name not in enough]
    if few:
        return Verdict("undecided", f"too few seeds ({LEAST_SEEDS} are needed): {', '.join(few)}", found)
    open_ = {name: each for name, each in found.items() if not _within(each, above, below)}
    if open_:
        text = f"the interval reaches too far: {_listed(open_, scale)}; wanted: {wanted}"
        return Verdict("undecided", text, found)
    return Verdict("holds", f"{_listed(found, scale)}; wanted: {wanted}", found)


def _within(found: Limits, above: float, below: float) -> bool:
    return found.low > above + _EXACT and found.high < below - _EXACT


def _wanted(above: float, below: float, scale: Scale) -> str:
    if math.isinf(below):
        return f"above {scale.number(above)}"
    if math.isinf(above):
        return f"below {scale.number(below)}"
    return f"between {scale.number(above)} and {scale.number(below)}"


def _listed(found: Mapping[str, Limits], scale: Scale) -> str:
    return "; ".join(f"{name}: {scale.text(each)}" for name, each in found.items())
