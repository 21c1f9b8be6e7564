"""The dotted fields of a run: what an axis, or a search, can vary."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import get_args

from pydantic import BaseModel

from rt_scale.spec.document import DEEPEST
from rt_scale.spec.errors import InputError, shown, unknown_name
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schedule import Schedule, parse


def check_field(what: str, key: str) -> None:
    """Refuse a dotted ``key`` that names no field of RunSpec, or of the run that it starts from.

    Args:
        what: what names it, for the error, e.g. ``field of an axis``.
        key: the field.

    Raises:
        InputError: naming the nearest field.
    """
    if key.count(".") >= DEEPEST:
        raise InputError(f"Unknown {what} {shown(key)}, {key.count('.')} levels deep; none is.")
    fields = dotted_fields(RunSpec)
    start, inside, rest = key.partition(".start_from.")
    if inside and f"{start}.start_from" in fields:
        fields += [f"{start}.start_from.{name}" for name in ("run", "take", "part")]
        for within in ("run.same_but.", "run."):
            if rest.startswith(within):
                check_field(what, rest.removeprefix(within))
                return
    if key not in fields:
        raise unknown_name(what, key, fields)


def dotted_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of ``model`` that is no part of its own, as ``part.field``."""
    return [name for name, _ in _annotated(model, prefix)]


def schedules(spec: RunSpec) -> Iterator[tuple[str, Schedule]]:
    """Every field of ``spec`` that is a schedule, not a number."""
    for name, annotation in _annotated(RunSpec):
        value = attrgetter(name)(spec)
        if isinstance(value, str) and _may_be(annotation, str) and _may_be(annotation, float):
            yield name, parse(value)


def _may_be(annotation: object, kind: type) -> bool:
    return annotation is kind or any(_may_be(each, kind) for each in get_args(annotation))


def _annotated(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _annotated(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
