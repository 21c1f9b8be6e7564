"""Means over seeds with their intervals, and what differences over seeds show: one rule, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from rt_scale.spec.metrics import ACCURACY, Bounds, difference_bounds
from rt_scale.store.metrics import LEAST_SEEDS, interval

ROLES = ("input", "teacher", "student")
_DIFFERENCES = difference_bounds(ACCURACY)
LEVEL = 0.95
"""Confidence of a one-sided limit."""
_EXACT = 1e-9
"""What rounding of the numbers may amount to: equal for all seeds, a difference of it is none."""


@dataclass(frozen=True)
class Estimate:
    """Mean of n numbers with their spread.

    Attributes:
        std: sample standard deviation; None for one number.
        low, high: ends of the interval of the mean, see ``interval``; None where there is none.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def percent(self) -> str:
        """An accuracy with its spread, e.g. ``46.0 ± 0.3``."""
        return f"{100 * self.mean:.1f}" + ("" if self.std is None else f" ± {100 * self.std:.1f}")

    @property
    def percent_interval(self) -> str:
        """An accuracy with all that is known of it, e.g. ``46.0 ± 0.3 [45.2, 46.8]``."""
        return self.percent + self._interval("")

    @property
    def points(self) -> str:
        """A difference in percentage points with its interval, if it has one, e.g. ``+26.3 [+15.5, +37.0]``."""
        return f"{100 * self.mean:+.1f}{self._interval('+')}"

    def _interval(self, sign: str) -> str:
        if self.low is None or self.high is None:
            return ""
        return f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def estimate(numbers: Sequence[float], bounds: Bounds) -> Estimate:
    """Mean, standard deviation and interval of ``numbers`` (at least one), each of which lies within ``bounds``."""
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):  # a seed that diverged leaves no spread
        return Estimate(sum(numbers) / len(numbers), None, None, None, len(numbers))
    mean, spread = fmean(numbers), stdev(numbers)
    low, high = (None if math.isnan(end) else float(end) for end in interval(mean, spread, len(numbers), bounds))
    return Estimate(mean, spread, low, high, len(numbers))


def estimates(accuracies: Iterable[tuple[float, float, float]]) -> dict[str, Estimate]:
    """``input``, ``teacher`` and ``student``, from one of each a seed, and ``gain``: student less its own teacher."""
    columns = dict(zip(ROLES, zip(*accuracies, strict=True), strict=True))
    found = {role: estimate(numbers, ACCURACY) for role, numbers in columns.items()}
    gains = [student - teacher for student, teacher in zip(columns["student"], columns["teacher"], strict=True)]
    return found | {"gain": estimate(gains, difference_bounds(ACCURACY))}


@dataclass(frozen=True)
class Limits:
    """Mean of n numbers with its one-sided confidence limits, each of the same confidence."""

    mean: float
    low: float
    high: float
    n: int


Word = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What runs say on a claim, why, and the limits of means over seeds that it rests on, by name."""

    word: Word
    why: str
    numbers: Mapping[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How numbers, which lie within ``bounds``, are written: multiplied by ``factor``, with a plus where ``signed``."""

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
    """Confidence limits of the mean of at least :data:`LEAST_SEEDS` numbers, each of confidence ``level``."""
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
    """Whether the mean of every part, by one number a seed, lies between two bounds.

    ``holds``: every part has at least :data:`LEAST_SEEDS` numbers, and both its one-sided 95 % limits lie between the
    bounds (between two finite bounds that is the two one-sided tests of equivalence). ``fails``: some part with so many
    numbers has a limit beyond a bound even at confidence 1 - 0.05 / k, k being the number of parts (Bonferroni: with
    many parts one is beyond by chance). ``undecided``: all else, and where there are no parts.
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
    open_ = {name: each for name, each in found.items()
             if not (each.low > above + _EXACT and each.high < below - _EXACT)}  # fmt: skip
    if open_:
        text = f"the interval reaches too far: {_listed(open_, scale)}; wanted: {wanted}"
        return Verdict("undecided", text, found)
    return Verdict("holds", f"{_listed(found, scale)}; wanted: {wanted}", found)


def _wanted(above: float, below: float, scale: Scale) -> str:
    if math.isinf(below):
        return f"above {scale.number(above)}"
    if math.isinf(above):
        return f"below {scale.number(below)}"
    return f"between {scale.number(above)} and {scale.number(below)}"


def _listed(found: Mapping[str, Limits], scale: Scale) -> str:
    return "; ".join(f"{name}: {scale.text(each)}" for name, each in found.items())
