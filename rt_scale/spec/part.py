"""Part: the base of all parts of a spec, its canonical JSON text, which is hashed, and parts that may name a plugin."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from rt_scale.plugins import is_reference
from rt_scale.spec.errors import shown

Document = dict[str, Any]
"""A JSON or YAML mapping."""
MOST = 10**9
"""Largest count in a spec: much larger tensor sizes overflow."""
LONGEST_NAME = 100
"""Longest name, in characters: names of folders and files contain it."""
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"


def _check_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not re.fullmatch(_NAME, name):
        long = f" of {len(name):,} characters" if len(name) > LONGEST_NAME else ""
        raise ValueError(
            f"{shown(name)}{long} is not a valid name: a name has letters a to z and A to Z, digits, '_', '-' and "
            f"'.', does not begin with '-' or '.', and has 1 to {LONGEST_NAME} characters"
        )
    return name


Name = Annotated[
    str,
    AfterValidator(_check_name),
    WithJsonSchema({"type": "string", "pattern": _NAME, "maxLength": LONGEST_NAME}),
]
"""A valid name of a folder."""

DataName = Name
"""Name of a prepared data set (`rt-scale data list`)."""


def whole(value: object) -> object:
    """``value``, or an integer for a float such as 5.0 or 1e2, as in JSON schemas."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


class Part(BaseModel):
    """A frozen part of a spec: no unknown keys, no infinite numbers, no type conversions but :func:`whole`.

    A tuple, which YAML writes as a list, needs ``Field(strict=False)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, float) and value == 0.0:
            value = 0.0  # -0.0 must have the same hash
        if info.field_name not in _of_integers(cls):
            return value
        if isinstance(value, bool):  # equals 0 or 1, also for a Literal
            raise ValueError(f"a whole number is expected, but {shown(value)} was given")
        return [whole(each) for each in value] if isinstance(value, list | tuple) else whole(value)

    @functools.cached_property
    def canonical_text(self) -> str:
        """All fields as JSON with sorted keys, without those at their neutral value; the hash covers this text."""
        texts = []
        for name, neutral in _fields_and_neutrals(type(self)):
            value = getattr(self, name)
            text = value.canonical_text if isinstance(value, Part) else json_text(value)
            if text != neutral:
                texts.append(f'"{name}":{text}')
        return "{" + ",".join(texts) + "}"

    def canonical(self) -> Document:
        """The value of ``canonical_text``."""
        value: dict[str, Any] = json.loads(self.canonical_text)
        return value


def changed(part: BaseModel, name: str) -> bool:
    """Whether the field ``name`` of ``part`` is not at its default."""
    return bool(getattr(part, name) != type(part).model_fields[name].default)


def added(default: Any, **field: Any) -> Any:
    """A field added after the first release: the hash omits its default, so that names of runs do not change."""
    return Field(default, json_schema_extra={"neutral": default}, **field)


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=lambda part: part.canonical()
)


def json_text(value: object) -> str:
    """``value``, which may contain parts, as canonical JSON: keys sorted, no blanks, ASCII."""
    return _ENCODER.encode(value)


@functools.cache
def _fields_and_neutrals(model: type[BaseModel]) -> list[tuple[str, str | None]]:
    """The sorted names of the fields, each with the JSON text of its neutral value if it has one."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return [
        (name, json_text(extra["neutral"]) if isinstance(extra, dict) and "neutral" in extra else None)
        for name, extra in sorted(extras.items())
    ]


@functools.cache
def _of_integers(model: type[BaseModel]) -> frozenset[str]:
    """The fields that hold integers or lists of them, but no other numbers."""
    types = {name: set(_types(field.annotation)) for name, field in model.model_fields.items()}
    return frozenset(name for name, held in types.items() if int in held and not held & {float, bool})


def _types(annotation: object) -> Iterator[object]:
    """The types in an annotation; for a Literal, the types of its values."""
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, inner)
    elif inner:
        for each in inner[:1] if get_origin(annotation) is Annotated else inner:
            yield from _types(each)
    else:
        yield annotation


Argument = Annotated[JsonValue, WithJsonSchema({})]
"""What a file can hold: text, a number, true, false, null, a list or a mapping."""


class Plugged(Part):
    """A part whose ``name`` may be a plugin's; ``args`` and ``source`` belong to plugins alone."""

    args: dict[str, Argument] | None = added(None)
    """A plugin's arguments, by name, e.g. {width: 32}."""
    source: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = added(None)
    """SHA-256 of the file that defines the plugin; filled in when a file of yours is read."""

    @property
    def plugin(self) -> str | None:
        """The plugin's reference; None for what rt-scale has itself."""
        name: str = self.name  # type: ignore[attr-defined]  # every subclass has one
        return name if is_reference(name) else None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The plugin's arguments, a copy, which it may change."""
        return copy.deepcopy(self.args or {})

    @field_validator("args")
    @classmethod
    def _none_for_empty(cls, args: dict[str, Argument] | None) -> dict[str, Argument] | None:
        """Equal runs have equal names."""
        return args or None

    @model_validator(mode="after")
    def _of_a_plugin(self) -> Plugged:
        name, plugin = getattr(self, "name", None), self.plugin
        if plugin is None and (self.args is not None or self.source is not None):
            raise ValueError(f"args and source belong to plugins, and '{name}' is none: leave them out")
        if plugin is not None and self.source is None:
            raise ValueError(
                f"'{plugin}' is a plugin, and its source is missing: read the spec from a file, or with rt_scale.load, "
                "which fills it in"
            )
        return self


def data_name(reference: str, args: Mapping[str, object] | None, source: str) -> str:
    """The name that the prepared data set of a plugin has: its attribute, and 8 digits of a digest of everything."""
    digest = hashlib.sha256(json_text([reference, args or None, source]).encode()).hexdigest()
    return f"{reference.partition(':')[2].strip('_')[:40] or 'data'}-{digest[:8]}"
