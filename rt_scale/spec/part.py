"""Part: what every part of a spec is."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

DataName = Annotated[str, StringConstraints(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""Name of a prepared data set (`rt-scale data list`)."""


class Part(BaseModel):
    """A frozen part of a spec: unknown keys are refused, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _one_zero(self) -> Part:
        """-0.0 means 0.0: one meaning, one hash."""
        for name, value in self.__dict__.items():
            if isinstance(value, float) and value == 0.0:
                self.__dict__[name] = 0.0
        return self

    @functools.cached_property
    def canonical_text(self) -> str:
        """``canonical`` of it as JSON, keys sorted: what is hashed; written once for all specs that share the part."""
        texts = []
        for name, neutral in _fields_and_neutrals(type(self)):
            value = getattr(self, name)
            text = value.canonical_text if isinstance(value, Part) else json_text(value)
            if text != neutral:
                texts.append(f'"{name}":{text}')
        return "{" + ",".join(texts) + "}"


def canonical(part: BaseModel) -> dict[str, Any]:
    """The JSON-able value of a part: every field, less those at the neutral value that they carry."""
    values: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        plain = canonical(value) if isinstance(value, BaseModel) else _plain(value)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "neutral" in extra and plain == _plain(extra["neutral"]):
            continue
        values[name] = plain
    return values


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def json_text(value: Any) -> str:
    """``value`` as JSON in its one spelling: keys sorted, no blanks, ASCII."""
    return _ENCODER.encode(value)


@functools.cache
def _fields_and_neutrals(model: type[BaseModel]) -> list[tuple[str, str | None]]:
    """Names of the fields, sorted, and the text of the neutral value of those that carry one."""
    extras = {name: field.json_schema_extra for name, field in model.model_fields.items()}
    return [
        (name, json_text(extra["neutral"]) if isinstance(extra, dict) and "neutral" in extra else None)
        for name, extra in sorted(extras.items())
    ]
