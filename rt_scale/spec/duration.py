"""Durations: lengths of training written as "5ep" (epochs) or "500it" (optimiser steps)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from rt_scale.spec.errors import cut

_DURATION = re.compile(r"^([1-9][0-9]{0,17})(ep|it)$")


def parse_duration(value: Any) -> str:
    """The duration ``value`` in its one spelling, e.g. ``"5ep"``.

    Raises:
        ValueError: where it is not a positive whole number followed by ``ep`` or ``it``.
    """
    text = str(value).strip().lower().replace(" ", "")
    if not _DURATION.match(text):
        raise ValueError(
            f"'{cut(str(value))}' is no duration; write a positive whole number and its unit, "
            "'5ep' for epochs or '500it' for optimiser steps"
        )
    return text


def duration_steps(duration: str, steps_per_epoch: int) -> int:
    """The number of optimiser steps that ``duration`` lasts.

    Args:
        duration: a parsed duration.
        steps_per_epoch: optimiser steps in one pass over the training images.
    """
    number, unit = _DURATION.match(parse_duration(duration)).groups()  # type: ignore[union-attr]
    return int(number) * (steps_per_epoch if unit == "ep" else 1)


Duration = Annotated[
    str,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["5ep", "500it"]}),
]
