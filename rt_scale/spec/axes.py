"""Axes of a sweep: the values they stand for, and the short names they are shown by."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rt_scale.spec.errors import InputError, shown, unknown_name
from rt_scale.spec.part import json_text, whole

LONGEST = 40
"""Characters of a list or a mapping that stand in a label; of a longer one its digest does."""


def axis_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest tail of each dotted field that tells it from the others and says what it is.

    ``student.alpha`` is ``alpha``, but ``encoder.name`` stays whole: ``name`` alone says nothing.
    """
    vague = {"name", "size", "epochs", "batch_size", "lr", "every"}
    tails = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(tails.values())
    return {key: key if tail in vague or counts[tail] > 1 else tail for key, tail in tails.items()}


def value_label(value: Any) -> str:
    """A value of an axis in few characters, different for different values; names of runs are made of it.

    Lists are ``cifar10+stl10``, mappings ``name:sgd;lr:0.1``. A run to start from is told by what is taken of it and 6
    hexadecimal digits of the SHA-256 of how the file describes it, e.g. ``student of 3fa2c1``: equal for all seeds.
    """
    if isinstance(value, Mapping) and "run" in value:
        taken = value.get("take", "student") + (" encoder" if value.get("part") == "encoder" else "")
        return f"{taken} of {value['run'] if isinstance(value['run'], str) else _short_digest(value['run'])}"
    if isinstance(value, Mapping):
        return _short(value, ";".join(f"{key}:{value_label(inner)}" for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return _short(value, "+".join(map(value_label, value)))
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "".join(str(value).split())


def _short(value: Any, text: str) -> str:
    return (text or "none") if len(text) <= LONGEST else _short_digest(value)


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:6]


def axis_length(key: str, axis: list[Any] | dict[str, list[Any]]) -> int:
    """How many values an axis has, told without making them; raises as ``expand_axis``."""
    if isinstance(axis, list):
        count = len(axis)
    else:
        kind, numbers = _generator(key, axis)
        count = numbers[1] - numbers[0] + 1 if kind == "pow2" else numbers[2]
    if not count:
        raise InputError(f"The axis {key} has no values; give at least one.")
    return int(count)


def expand_axis(key: str, axis: list[Any] | dict[str, list[Any]]) -> list[Any]:
    """The values of an axis.

    Raises:
        InputError: where the generator is unknown, its arguments are wrong, or no value comes out.
    """
    axis_length(key, axis)
    return axis if isinstance(axis, list) else _generated(*_generator(key, axis))


def _generator(key: str, axis: dict[str, list[Any]]) -> tuple[str, list[Any]]:
    """The name and the arguments of a generator, checked."""
    shapes = {
        "pow2": "[from, to]",
        "linspace": "[from, to, n]",
        "logspace": "[from exponent, to exponent, n]",
    }
    if len(axis) != 1:
        raise InputError(f"The axis {key} must have one of {', '.join(shapes)}; given: {', '.join(axis) or 'none'}.")
    ((kind, given),) = axis.items()
    if kind not in shapes:
        raise unknown_name(f"generator of the axis {key}", kind, shapes)
    wanted = f"The axis {key} needs {kind}: {shapes[kind]}; given: {shown(given)}."
    numbers = [whole(number) if kind == "pow2" or place == 2 else number for place, number in enumerate(given)]
    if len(numbers) != shapes[kind].count(",") + 1 or not all(
        isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) for number in numbers
    ):
        raise InputError(wanted)
    if kind == "pow2":
        if not all(isinstance(number, int) for number in numbers) or not 0 <= numbers[0] <= numbers[1] <= 62:
            raise InputError(f"{wanted} Both are whole exponents of 2, 0 <= from <= to.")
    elif not isinstance(numbers[2], int) or numbers[2] < 2:
        raise InputError(f"{wanted} n is a whole number of at least 2.")
    if kind == "logspace" and max(map(abs, numbers[:2])) > 300:
        raise InputError(f"{wanted} Exponents are of 10, from -300 to 300.")
    return kind, numbers


def _generated(kind: str, numbers: list[Any]) -> list[Any]:
    if kind == "pow2":
        return [2**exponent for exponent in range(numbers[0], numbers[1] + 1)]
    start, stop, count = numbers
    points = [start + (stop - start) * i / (count - 1) for i in range(count)]
    # 12 digits: 0.1 * 3 must be the 0.3 that a list of the same values would hold, hence the same hash.
    return [float(f"{math.pow(10, point) if kind == 'logspace' else point:.12g}") for point in points]
