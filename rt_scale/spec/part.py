"""Part: what every part of a spec is."""

from __future__ import annotations

from typing import Annotated

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
