"""RunSpec: the value that says everything that decides a run's numbers."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, Field

from rt_scale.spec.networks import EncoderSpec, ProjectorSpec, StudentSpec
from rt_scale.spec.part import DataName, Part
from rt_scale.spec.probe import ProbeSpec
from rt_scale.spec.training import OptimizerSpec, TrainSpec

__all__ = [
    "DataSpec",
    "EncoderSpec",
    "OptimizerSpec",
    "Part",
    "ProbeSpec",
    "ProjectorSpec",
    "RunSpec",
    "SeedSpec",
    "StudentSpec",
    "TrainSpec",
]


class DataSpec(Part):
    """The images that the student is distilled and probed on."""

    name: DataName
    """Name of a prepared data set (`rt-scale data list`)."""
    size: int | None = Field(None, ge=4, le=512)
    """Side in pixels to which images are resized on the device (bilinear, antialiased); null: as prepared."""
    samples: int | None = Field(None, ge=1)
    """Training images used: a class-balanced subset, nested for one data seed; null: the whole split."""


class SeedSpec(Part):
    """One named random stream each; equal numbers still give independent streams."""

    teacher: int = Field(0, ge=0)
    """The teacher's initialisation."""
    student: int = Field(0, ge=0)
    """The student's own draw, of which alpha decides the share."""
    data: int = Field(0, ge=0)
    """The subset and the order of the training images."""
    probe: int = Field(0, ge=0)
    """Initialisation and order of the linear classifiers."""


class RunSpec(Part):
    """One distillation of a random teacher into a student, with its probes.

    Equal specs name the same run. The hash covers every field's value, defaults included, so a
    changed default names another run. A field that is added later carries
    ``json_schema_extra={"neutral": value}``, the value under which runs are what they were before
    the field existed; it is left out of the hash where it has that value, so old names stay.
    """

    kind: Literal["distill"] = "distill"
    """What is run: distill."""
    data: DataSpec
    """The images."""
    encoder: EncoderSpec
    """The encoder, the same for teacher and student."""
    projector: ProjectorSpec = ProjectorSpec()
    """The projector, the same for teacher and student."""
    student: StudentSpec = StudentSpec()
    """The student's initialisation."""
    train: TrainSpec = TrainSpec()
    """Training."""
    probe: ProbeSpec = ProbeSpec()
    """Probing."""
    seeds: SeedSpec = SeedSpec()
    """Random streams."""
    precision: Literal["float32", "float64", "bf16"] = "float32"
    """Arithmetic of the networks; bf16 is autocast over float32 parameters."""

    def canonical(self) -> dict[str, Any]:
        """The JSON-able value that is hashed: every field, less those at their neutral value."""
        return _canonical(self)

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical value."""
        return _digest(self.canonical())

    @cached_property
    def configuration_hash(self) -> str:
        """The hash of everything but the seeds: equal for the repetitions of one configuration."""
        return _digest({key: value for key, value in self.canonical().items() if key != "seeds"})

    @property
    def name(self) -> str:
        """The name of the run and of its directory, e.g. ``distill-0123456789abcdef``."""
        return f"{self.kind}-{self.hash}"


def _canonical(part: BaseModel) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "neutral" in extra and value == extra["neutral"]:
            continue
        values[name] = _canonical(value) if isinstance(value, BaseModel) else _plain(value)
    return values


def _digest(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
