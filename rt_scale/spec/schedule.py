"""Durations (``5ep``, ``500it``) and schedules, numbers that change during training: ``linear(0, 5e-4, 10ep)``.

A schedule is a sequence of pieces joined by '+'. A piece has a name, numbers and a length: 10ep (epochs), 500it
(optimiser steps) or 20% (of the run); the last piece lasts to the end of the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from rt_scale.spec.errors import cut, guess

_DURATION = re.compile(r"^([1-9][0-9]{0,17})(ep|it)$")


def parse_duration(value: object) -> str:
    """The canonical text of a duration: a positive whole number and ``ep`` or ``it``; raises ValueError."""
    text = str(value).strip().lower().replace(" ", "")
    if not _DURATION.match(text):
        raise ValueError(
            f"'{cut(str(value))}' is not a duration; write a positive whole number and its unit, "
            "'5ep' for epochs or '500it' for optimiser steps"
        )
    return text


def duration_steps(duration: str, steps_per_epoch: int) -> int:
    """``duration`` in optimiser steps."""
    text = parse_duration(duration)
    return int(text[:-2]) * (steps_per_epoch if text.endswith("ep") else 1)


Duration = Annotated[
    str,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["5ep", "500it"]}),
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
_TOKEN = re.compile(
    r"(?P<length>\d+(?:\.\d+)?(?:ep|it|%))|(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_]+)|(?P<mark>[(),+])|(?P<blank>\s+)|(?P<other>.)"
)


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
    def constant(self) -> float | None:
        """The value of a constant schedule, else None."""
        low, high = self.bounds
        return low if low == high else None

    def __str__(self) -> str:
        return " + ".join(map(str, self.pieces))


def parse(text: str | float) -> Schedule:
    """The schedule of that text; a number is a constant. Raises ValueError that points at the wrong character."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Schedule((Piece("constant", (float(text),), ()),))
    return _Parser(str(text)).schedule()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        found = [(match.lastgroup, match.group(), match.start()) for match in _TOKEN.finditer(text)]
        self.tokens = [token for token in found if token[0] != "blank"] + [("end", "", len(text))]

    def fail(self, place: int, problem: str) -> ValueError:
        forms = ", ".join(FORMS.values())
        marked = f"{self.text[max(0, place - 50) : place]}>>{self.text[place : place + 50]}"
        return ValueError(
            f"schedule '{cut(self.text)}', character {place + 1} ('{marked}'): {problem}; known: {forms}, each with a "
            "length such as 10ep, 500it or 20% where another follows after '+'"
        )

    def take(self, kind: str, wanted: str) -> str:
        found, text, place = self.tokens[0]
        if found != kind or (kind == "mark" and text not in wanted):
            raise self.fail(place, f"expected {wanted}, found {repr(cut(text)) if text else 'the end'}")
        self.tokens.pop(0)
        return text

    def schedule(self) -> Schedule:
        if [token[0] for token in self.tokens] == ["number", "end"]:
            return parse(self.number())
        pieces = [self.piece()]
        while self.tokens[0][0] != "end":
            place = self.tokens[0][2]
            self.take("mark", "+")
            before = pieces[-1]
            if not before.lengths or before.name == "multistep":
                raise self.fail(place, f"{before.name} before a '+' needs a length")
            pieces.append(self.piece())
        return Schedule(tuple(pieces))

    def piece(self) -> Piece:
        place = self.tokens[0][2]
        name = self.take("name", "the name of a schedule")
        if name not in FORMS:
            close = guess(name, FORMS)
            raise self.fail(place, f"unknown schedule '{cut(name)}'" + (f",{close}" if close else ""))
        self.take("mark", "(")
        numbers, lengths = [], []
        while True:
            if self.tokens[0][0] == "length":
                text = self.take("length", "a length")
                unit = "%" if text.endswith("%") else text[-2:]
                lengths.append(Length(float(text.removesuffix(unit)), unit))
            elif lengths:
                raise self.fail(self.tokens[0][2], "expected a length, since lengths come last")
            else:
                numbers.append(self.number())
            if self.take("mark", ",)") == ")":
                break
        if problem := _problem(name, numbers, lengths):
            raise self.fail(place, problem)
        return Piece(name, tuple(numbers), tuple(lengths))

    def number(self) -> float:
        place = self.tokens[0][2]
        value = float(self.take("number", "a number or a length")) + 0.0  # -0 is 0
        if math.isinf(value):
            raise self.fail(place, "a number above 1.8e308")
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
