"""Durations (``5ep``, ``500it``), moments (``0ep``, ``2ep``) and schedules: ``linear(0, 5e-4, 10ep)``.

A schedule, a number that changes during training, is a sequence of pieces joined by '+'. A piece has a name, numbers
and a length: 10ep (epochs), 500it (optimiser steps) or 20% (of the run); the last piece lasts to the end of the run.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from rt_scale.spec.errors import cut, guess

_DURATION = re.compile(r"^([1-9][0-9]{0,17})(ep|it)$")
_MOMENT = re.compile(r"^(0|[1-9][0-9]{0,17})(ep|it)$")


def parse_duration(value: object) -> str:
    """The canonical text of a duration: a positive whole number and ``ep`` or ``it``; raises ValueError."""
    return _parsed(value, _DURATION, "a duration; write a positive whole number")


def parse_moment(value: object) -> str:
    """The canonical text of a moment of a run, a duration after its start or ``0ep``; raises ValueError."""
    text = _parsed(value, _MOMENT, "a moment; write a whole number, 0 for the start,")
    return "0ep" if text == "0it" else text


def _parsed(value: object, pattern: re.Pattern[str], wanted: str) -> str:
    text = str(value).strip().lower().replace(" ", "")
    if not pattern.match(text):
        raise ValueError(
            f"'{cut(str(value))}' is not {wanted} and its unit, '5ep' for epochs or '500it' for optimiser steps"
        )
    return text


def duration_steps(duration: str, steps_per_epoch: int) -> int:
    """A duration or a moment in optimiser steps."""
    text = parse_moment(duration)
    return int(text[:-2]) * (steps_per_epoch if text.endswith("ep") else 1)


Duration = Annotated[
    str,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["5ep", "500it"]}),
]
Moment = Annotated[
    str,
    BeforeValidator(parse_moment),
    WithJsonSchema({"type": "string", "pattern": _MOMENT.pattern, "examples": ["0ep", "2ep", "500it"]}),
]


SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda a, b, u: (1 - u) * a + u * b,
    "cosine": lambda a, b, u: (1 + math.cos(math.pi * u)) / 2 * a + (1 - math.cos(math.pi * u)) / 2 * b,
    "exponential": lambda a, b, u: a * (b / a) ** u,
}
"""Value at the fraction u in [0, 1] of a piece that goes from a to b."""
FORMS = {
    "constant": "constant(value)",
    **{name: f"{name}(from, to)" for name in SHAPES},
    "multistep": "multistep(from, factor, 80ep, 120ep)",
}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LENGTH = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ep|it|%)")
_PIECE = re.compile(r"\s*(?P<name>\w+)\s*\((?P<arguments>[^()]*)\)\s*")
_JOINT = re.compile(r"(?<=\))\s*\+")  # a '+' may also be a number's sign


@dataclass(frozen=True)
class Length:
    """A length in ``ep`` (epochs), ``it`` (steps) or ``%`` (of the run)."""

    number: float
    unit: str

    def steps(self, total: int, per_epoch: int) -> float:
        """The length in optimiser steps, in a run of ``total`` steps with ``per_epoch`` an epoch."""
        return self.number * {"ep": per_epoch, "it": 1, "%": total / 100}[self.unit]

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit}"


@dataclass(frozen=True)
class Piece:
    """One piece of a schedule; the lengths of multistep are its milestones."""

    name: str
    numbers: tuple[float, ...]
    lengths: tuple[Length, ...]

    def value(self, step: float, duration: float, total: int, per_epoch: int) -> float:
        """The value ``step`` steps after the start of the piece, which lasts ``duration`` steps."""
        if self.name == "constant":
            return self.numbers[0]
        first, second = self.numbers
        if self.name == "multistep":
            return first * second ** sum(step >= milestone.steps(total, per_epoch) for milestone in self.lengths)
        return SHAPES[self.name](first, second, min(1.0, step / duration) if duration > 0 else 1.0)

    def __str__(self) -> str:
        return f"{self.name}({', '.join([*map(repr, self.numbers), *map(str, self.lengths)])})"


@dataclass(frozen=True)
class Schedule:
    """A number for every optimiser step; made by :func:`parse`."""

    pieces: tuple[Piece, ...]

    def value(self, step: int, total: int, per_epoch: int) -> float:
        """The value at optimiser step ``step`` (from 0), in a run of ``total`` steps with ``per_epoch`` an epoch."""
        start = 0.0
        for piece in self.pieces[:-1]:
            duration = piece.lengths[0].steps(total, per_epoch)
            if step < start + duration:
                return piece.value(step - start, duration, total, per_epoch)
            start += duration
        last = self.pieces[-1]
        lasts = last.name != "multistep" and last.lengths
        duration = last.lengths[0].steps(total, per_epoch) if lasts else total - start
        return last.value(step - start, duration, total, per_epoch)

    def least_steps(self, total: int, per_epoch: int) -> float:
        """Steps that a run needs to reach the last piece, and its end if that piece rises; arguments as ``value``."""
        last = self.pieces[-1]
        rises = last.name in SHAPES and last.numbers[1] > last.numbers[0]
        ending = self.pieces if rises else self.pieces[:-1]
        return sum(length.steps(total, per_epoch) for piece in ending for length in piece.lengths)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value of the schedule."""
        values: list[float] = []
        for piece in self.pieces:
            first, *_ = piece.numbers
            steps = piece.name == "multistep"
            values += [first * piece.numbers[1] ** n for n in range(len(piece.lengths) + 1)] if steps else piece.numbers
        return min(values), max(values)

    @property
    def relative(self) -> bool:
        """Whether its lengths depend on the run's: in %, or a last piece that changes up to the end."""
        last = self.pieces[-1]
        open_end = last.name in SHAPES and not last.lengths
        return open_end or any(length.unit == "%" for piece in self.pieces for length in piece.lengths)

    @property
    def constant(self) -> float | None:
        """The value of a constant schedule, else None."""
        low, high = self.bounds
        return low if low == high else None

    def __str__(self) -> str:
        return " + ".join(map(str, self.pieces))


def parse(text: str | float) -> Schedule:
    """The schedule of that text; a number is a constant. Raises ValueError that names the wrong piece."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Schedule((Piece("constant", (float(text),), ()),))
    text, pieces = str(text).strip(), []
    if _NUMBER.fullmatch(text):
        return parse(_number(text))
    parts = _JOINT.split(text)
    for place, part in enumerate(parts, 1):
        try:
            pieces.append(_piece(part))
            if place < len(parts) and (not pieces[-1].lengths or pieces[-1].name == "multistep"):
                raise ValueError(f"{pieces[-1].name} before a '+' needs a length")
        except ValueError as problem:
            raise ValueError(
                f"schedule '{cut(text)}': '{cut(part.strip())}' is wrong: {problem}; known: "
                f"{', '.join(FORMS.values())}, each with a length such as 10ep, 500it or 20% where another follows "
                "after '+'"
            ) from None
    return Schedule(tuple(pieces))


def _piece(text: str) -> Piece:
    match = _PIECE.fullmatch(text)
    if match is None:
        raise ValueError("write a name, and its numbers and lengths in parentheses")
    name, arguments = match["name"], [each.strip() for each in match["arguments"].split(",")]
    if name not in FORMS:
        close = guess(name, FORMS)
        raise ValueError(f"unknown schedule '{cut(name)}'" + (f",{close}" if close else ""))
    numbers = [_number(each) for each in itertools.takewhile(_NUMBER.fullmatch, arguments)]
    lengths = []
    for each in arguments[len(numbers) :]:
        found = _LENGTH.fullmatch(each)
        if found is None:
            raise ValueError(f"'{cut(each)}' is not a length; numbers come first, then lengths")
        lengths.append(Length(float(found["number"]), found["unit"]))
    if problem := _problem(name, numbers, lengths):
        raise ValueError(problem)
    return Piece(name, tuple(numbers), tuple(lengths))


def _number(text: str) -> float:
    value = float(text) + 0.0  # -0 is 0
    if math.isinf(value):
        raise ValueError("a number is above 1.8e308")
    return value


def _problem(name: str, numbers: list[float], lengths: list[Length]) -> str:
    """The problem with the arguments of a piece; empty if there is none."""
    wanted = 1 if name == "constant" else 2
    if len(numbers) != wanted:
        return f"{name} needs {wanted} number{'s' if wanted > 1 else ''}, given: {len(numbers)}"
    if name == "multistep":
        if len({item.unit for item in lengths}) != 1:
            return "multistep needs at least one milestone, all of one unit"
        if [item.number for item in lengths] != sorted({item.number for item in lengths}):
            return "the milestones of multistep must increase"
    elif len(lengths) > 1:
        return f"{name} takes one length at most"
    elif any(item.number <= 0 for item in lengths):
        return "a length must be above 0"
    if name == "exponential" and min(numbers) <= 0:
        return "exponential needs numbers above 0"
    return ""


def _normal(value: str | float) -> float | str:
    schedule = parse(value)
    constant = schedule.constant
    return str(schedule) if constant is None else constant


Scheduled = Annotated[
    float | str,
    BeforeValidator(_normal),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "examples": [1e-3, "cosine(0.996, 1)"]}),
]
"""A number, or the canonical text of a schedule; a constant schedule becomes a number."""
