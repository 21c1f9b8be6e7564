"""The teacher: where it starts, how it moves, and what is done to its logits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rt_scale.spec.part import Part
from rt_scale.spec.schedule import Scheduled
from rt_scale.spec.schedule import parse as parse_schedule
from rt_scale.spec.start import StartFrom


def _between_0_and_1(value: float | str) -> float | str:
    low, high = parse_schedule(value).bounds
    if not 0 <= low <= high <= 1:
        raise ValueError(f"must lie in [0, 1], but {value} was given, which goes from {low:g} to {high:g}")
    return value


def _above_0(value: float | str) -> float | str:
    low, _ = parse_schedule(value).bounds
    if not low > 0:
        raise ValueError(f"must be greater than 0, but {value} was given, which goes down to {low:g}")
    return value


Momentum = Annotated[Scheduled, AfterValidator(_between_0_and_1)]
"""A number in [0, 1], or a schedule of such numbers."""

Temperature = Annotated[Scheduled, AfterValidator(_above_0)]
"""A number > 0, or a schedule of such numbers."""


class TeacherSpec(Part):
    """The teacher; by default random and frozen, in evaluation mode (paper, section 3).

    DINO's teacher (appendix E.3) is ``{update: ema, momentum: "cosine(0.996, 1)", mode: train, statistics: data,
    center: 0.9, temperature: 0.04}``.
    """

    start_from: StartFrom | None = Field(None, json_schema_extra={"neutral": None})
    """Start from weights of another run in place of a random draw; null: a random draw."""
    update: Literal["none", "ema", "previous_epoch"] = Field("none", json_schema_extra={"neutral": "none"})
    """none (frozen), ema (after every step an average of the student's parameters), previous_epoch (a copy of the
    student as it was at the end of the epoch before)."""
    momentum: Momentum = Field(0.996, json_schema_extra={"neutral": 0.996})
    """Of ema: teacher = momentum x teacher + (1 - momentum) x student; in [0, 1], or a schedule."""
    mode: Literal["eval", "train"] = Field("eval", json_schema_extra={"neutral": "eval"})
    """Batch norms of the teacher normalise by running statistics (eval) or by those of the batch (train)."""
    statistics: Literal["initial", "student", "data"] = Field("initial", json_schema_extra={"neutral": "initial"})
    """Running statistics of the teacher's batch norms: initial (as it starts, for ever; of a random draw mean 0 and
    variance 1), student (they follow the student's as parameters do), data (moved by the teacher's own passes over
    the batches)."""
    temperature: Temperature = Field(1.0, json_schema_extra={"neutral": 1.0})
    """The teacher's logits are divided by it before the softmax; > 0, or a schedule."""
    center: Momentum | None = Field(None, json_schema_extra={"neutral": None})
    """Momentum of a running mean of the teacher's logits that is subtracted from them (DINO: 0.9); null: none."""

    @model_validator(mode="after")
    def _what_is_used(self) -> TeacherSpec:
        if self.update != "ema" and self.momentum != TeacherSpec.model_fields["momentum"].default:
            raise ValueError(f"momentum belongs to update: ema; with update: {self.update} leave it out")
        if self.update == "none" and self.statistics == "student":
            raise ValueError("statistics follow the student only in a teacher that does: give update: ema, or data")
        return self

    @property
    def moves(self) -> bool:
        """Whether the teacher is another network at another step."""
        return self.update != "none" or self.statistics != "initial"
