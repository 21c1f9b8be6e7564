"""Part: what every part of a spec is."""

from __future__ import annotations

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
