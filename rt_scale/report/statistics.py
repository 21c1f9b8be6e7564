"""Means over seeds with intervals, and verdicts on differences, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from rt_scale.spec.metrics import ACCURACY, Bounds, difference_bounds
from rt_scale.store.metrics import LEAST_SEEDS, interval

ROLES = ("input", "teacher", "student")
DIFFERENCES = difference_bounds(ACCURACY)
LEVEL = 0.95
"""Confidence of a one-sided limit."""
_EXACT = 1e-9
"""Tolerance for rounding errors, which may be equal for all seeds."""


@dataclass(frozen=True)
class Estimate:
    """Mean of n numbers with their sample standard deviation, None for one number, and the ends of the mean's
    ``interval``, None if there is none.
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
        """An accuracy with its spread and interval, e.g. ``46.0 ± 0.3 [45.2, 46.8]``."""
        return self.percent + self._interval("")

    @property
    def points(self) -> str:
        """A difference in percentage points with its interval, e.g. ``+26.3 [+15.5, +37.0]``."""
        return f"{100 * self.mean:+.1f}{self._interval('+')}"

    @property
    def clear(self) -> int:
        """Of a difference: 1 if its interval is above 0, -1 if below, 0 if it holds 0 or there is none."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def mark(self) -> str:
        """The sign of a difference that is clear of 0: ▲, ▼ or nothing."""
        return {1: "▲", -1: "▼", 0: ""}[self.clear]

    def _interval(self, sign: str) -> str:
        if self.low is None or self.high is None:
            return ""
        return f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"


def estimate(numbers: Sequence[float], bounds: Bounds) -> Estimate:
    """Mean, standard deviation and interval of at least one number, all within ``bounds``."""
    if len(numbers) < 2 or not all(map(math.isfinite, numbers)):  # with a diverged seed there is no spread
        return Estimate(sum(numbers) / len(numbers), None, None, None, len(numbers))
    mean, spread = fmean(numbers), stdev(numbers)
    low, high = (None if math.isnan(end) else float(end) for end in interval(mean, spread, len(numbers), bounds))
    return Estimate(mean, spread, low, high, len(numbers))


def estimates(accuracies: Iterable[tuple[float, float, float]]) -> dict[str, Estimate]:
    """Estimates of ``input``, ``teacher`` and ``student``, from a triple per seed, and ``gain`` (student - teacher)."""
    columns = dict(zip(ROLES, zip(*accuracies, strict=True), strict=True))
    found = {role: estimate(numbers, ACCURACY) for role, numbers in columns.items()}
    gains = [student - teacher for student, teacher in zip(columns["student"], columns["teacher"], strict=True)]
    return found | {"gain": estimate(gains, DIFFERENCES)}


@dataclass(frozen=True)
class Limits:
    """Mean of n numbers with its one-sided limits, each of the same confidence."""

    mean: float
    low: float
    high: float
    n: int


Word = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, its reason, and the limits of the means behind it, by name."""

    word: Word
    why: str
    numbers: Mapping[str, Limits] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How to write numbers within ``bounds``: multiplied by ``factor``, with a plus sign if ``signed``."""

    factor: float = 100.0
    unit: str = "points"
    signed: bool = True
    bounds: Bounds = DIFFERENCES

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
    """One-sided limits, each of confidence ``level``, of the mean of at least :data:`LEAST_SEEDS` numbers."""
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
    """Whether the mean of every part, given one number per seed, lies between two bounds.

    ``holds``: every part has at least :data:`LEAST_SEEDS` numbers, and both its one-sided 95 % limits lie between the
    bounds (for two finite bounds: the two one-sided tests of equivalence). ``fails``: some part with that many numbers
    has a limit beyond a bound at confidence 1 - 0.05 / k for k parts (Bonferroni). ``undecided``: otherwise.
    """
    if not numbers:
        return Verdict("undecided", "the sweep has no run that the claim applies to")
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
