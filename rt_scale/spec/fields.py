"""The dotted fields of a run: what an axis, or a search, can vary."""

from __future__ import annotations

from pydantic import BaseModel

from rt_scale.spec.errors import InputError, shown, unknown_name
from rt_scale.spec.run import RunSpec
from rt_scale.spec.yaml_core import DEEPEST


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
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += dotted_fields(inner, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names
