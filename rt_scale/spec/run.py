"""RunSpec: the value that says everything that decides a run's numbers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from rt_scale.spec.augment import AugmentSpec
from rt_scale.spec.consistency import check_run
from rt_scale.spec.data import DataSpec
from rt_scale.spec.networks import EncoderSpec, ProjectorSpec, StudentSpec
from rt_scale.spec.objective import ObjectiveSpec
from rt_scale.spec.part import Part, canonical, json_text
from rt_scale.spec.probe import ProbeSpec
from rt_scale.spec.start import StartFrom
from rt_scale.spec.teacher import TeacherSpec
from rt_scale.spec.training import OptimizerSpec, TrainSpec

__all__ = [
    "AugmentSpec",
    "DataSpec",
    "EncoderSpec",
    "ObjectiveSpec",
    "OptimizerSpec",
    "Part",
    "ProbeSpec",
    "ProjectorSpec",
    "RunSpec",
    "SeedSpec",
    "StartFrom",
    "StudentSpec",
    "TeacherSpec",
    "TrainSpec",
]


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
    """One distillation of a teacher into a student, or one supervised training, with its probes.

    Equal specs name the same run. The hash covers every field's value, defaults included, so a
    changed default names another run. A field that is added later carries
    ``json_schema_extra={"neutral": value}``, the value under which runs are what they were before
    the field existed; it is left out of the hash where it has that value, so old names stay.
    """

    kind: Literal["distill", "supervise"] = "distill"
    """distill (the student learns the teacher's outputs), or supervise (it learns labels; out_dim is their number).

    A plain linear classifier is ``projector: {hidden: [], parts: -/lb/-/-/-/-, init: torch, out_dim: 10}``.
    """
    data: DataSpec
    """The images."""
    encoder: EncoderSpec
    """The encoder, the same for teacher and student."""
    projector: ProjectorSpec = ProjectorSpec()
    """The projector, the same for teacher and student."""
    teacher: TeacherSpec = Field(
        default_factory=functools.cache(lambda: TeacherSpec()), json_schema_extra={"neutral": {}}
    )
    """The teacher: where it starts and how it moves."""
    student: StudentSpec = Field(default_factory=functools.cache(lambda: StudentSpec()))
    """The student: where it starts."""
    objective: ObjectiveSpec = Field(ObjectiveSpec(), json_schema_extra={"neutral": {}})
    """What training minimises."""
    augment: AugmentSpec = Field(AugmentSpec(), json_schema_extra={"neutral": canonical(AugmentSpec())})
    """How training images are augmented; those that are probed never are."""
    train: TrainSpec = TrainSpec()
    """Training."""
    probe: ProbeSpec = ProbeSpec()
    """Probing."""
    seeds: SeedSpec = SeedSpec()
    """Random streams."""
    precision: Literal["float32", "tf32", "float64", "bf16"] = "float32"
    """Arithmetic of the networks, in training and where their embeddings are computed for probes: float32 in full, tf32
    in matrix products and convolutions (GPUs alone), float64, or bf16, which is autocast over float32 parameters.
    Embeddings are kept in float32."""

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        check_run(self)
        return self

    @property
    def starts(self) -> tuple[StartFrom, ...]:
        """What teacher and student start from, where they start from other runs."""
        return tuple(start for start in (self.teacher.start_from, self.student.start_from) if start is not None)

    def canonical(self) -> dict[str, Any]:
        """The JSON-able value that is hashed: every field, less those at their neutral value."""
        return canonical(self)

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the canonical value."""
        return _digest(self.canonical_text)

    @functools.cached_property
    def configuration_hash(self) -> str:
        """The hash of everything but the seeds, those of runs to start from too: equal for all repetitions."""
        return _digest(json_text(_without_seeds(self.canonical())))

    @property
    def name(self) -> str:
        """The name of the run and of its directory, e.g. ``distill-0123456789abcdef``."""
        return f"{self.kind}-{self.hash}"


def recorded_name(canonical: Mapping[str, Any]) -> str:
    """The name of the run of that canonical value, whatever version of rt-scale recorded it."""
    return f"{canonical['kind']}-{_digest(json_text(canonical))}"


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(inner) for key, inner in value.items() if key != "seeds"}
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


for _part in (StartFrom, TeacherSpec, StudentSpec, RunSpec):
    _part.model_rebuild(_types_namespace={"RunSpec": RunSpec})
