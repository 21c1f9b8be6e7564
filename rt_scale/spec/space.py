"""The space that a search samples: for each field the values that it can have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from rt_scale.spec.errors import InputError, shown, unknown_name

MOST_CORNERS = 10_000
"""Corners of a space that are checked before a search starts, at most."""
MOST_RUNS = 1_000_000
"""Runs of a sweep at most, whatever is said: making the specs of so many takes a minute and 3 GB."""
_INSIDE = (3 - 5**0.5) / 2  # no round share of a range: what lies there is no whole number by chance


@dataclass(frozen=True)
class Domain:
    """The values that one field can have.

    Attributes:
        kind: ``choice`` of listed values, ``uniform`` or ``loguniform`` real numbers, ``pow2`` powers of two.
        values: the listed values; else the least and the greatest, of ``pow2`` as exponents.
    """

    kind: Literal["choice", "uniform", "loguniform", "pow2"]
    values: tuple[Any, ...]

    @property
    def corners(self) -> list[Any]:
        """The values that must be valid for all to be: every listed one, else both ends and one between."""
        if self.kind == "choice":
            return list(self.values)
        if self.kind == "pow2":
            return [2**exponent for exponent in dict.fromkeys(self.values)]
        low, high = self.values
        return [low, low + _INSIDE * (high - low), high]

    @property
    def size(self) -> float:
        """How many values there are; infinity of real numbers."""
        if self.kind == "choice":
            return len(self.values)
        return 1 + self.values[1] - self.values[0] if self.kind == "pow2" else math.inf

    def __contains__(self, value: object) -> bool:
        if self.kind == "choice":
            return any(repr(value) == repr(each) for each in self.values)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        low, high = self.values
        if self.kind == "pow2":
            return value in [2**exponent for exponent in range(low, high + 1)]
        return bool(low <= value <= high)


def parse_domain(key: str, given: list[Any] | dict[str, list[Any]]) -> Domain:
    """The domain of the field ``key`` as a sweep file writes it.

    Raises:
        InputError: where the generator is unknown, or its range or list is empty or wrong.
    """
    if isinstance(given, list):
        texts = [repr(value) for value in given]
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"{key} needs a list of at least one value, each once; given: {shown(given)}.")
        return Domain("choice", tuple(given))
    shapes = {
        "uniform": "[from, to] with from < to",
        "loguniform": "[from, to] with 0 < from < to",
        "pow2": "[from, to], whole exponents of 2 with 0 <= from <= to <= 62",
    }
    if len(given) != 1:
        raise InputError(f"{key} needs a list of values, or one of {', '.join(shapes)}; given: {shown(given)}.")
    ((kind, ends),) = given.items()
    if kind not in shapes:
        raise unknown_name(f"kind of range of {key}", kind, shapes)
    wanted = f"{key} needs {kind}: {shapes[kind]}; given: {shown(ends)}."
    whole = kind == "pow2"
    if len(ends) != 2 or any(isinstance(e, bool) or not isinstance(e, int if whole else int | float) for e in ends):
        raise InputError(wanted)
    low, high = ends
    if whole:
        if not 0 <= low <= high <= 62:
            raise InputError(wanted)
        return Domain("pow2", (low, high))
    if not (0 if kind == "loguniform" else -1e308) < low < high < 1e308:
        raise InputError(wanted)
    return Domain("loguniform" if kind == "loguniform" else "uniform", (float(low), float(high)))
