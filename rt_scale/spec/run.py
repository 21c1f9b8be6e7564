"""RunSpec: the value that says everything that decides a run's numbers."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.schedule import Duration


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


class DataSpec(Part):
    """The images that the student is distilled and probed on."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Name of a prepared data set (`rt-scale data list`)."""
    size: int | None = Field(None, ge=4, le=512)
    """Side in pixels to which images are resized on the device (bilinear, antialiased); null: as prepared."""
    samples: int | None = Field(None, ge=1)
    """Training images used: a class-balanced subset, nested for one data seed; null: the whole split."""


class EncoderSpec(Part):
    """The network whose embedding is probed."""

    name: str
    """Name of an encoder (`rt-scale models`), e.g. resnet18, vgg11, convnet_32_2."""
    norm: Literal["batch", "none"]
    """Normalisation layers: batch or none. Left out: the paper's choice (batch for ResNets, none for VGG)."""
    width: float = Field(1.0, gt=0, le=16)
    """Multiplier of every layer's number of channels; 0 < width <= 16."""

    @model_validator(mode="before")
    @classmethod
    def _paper_norm(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("name"), str) and given.get("norm") is None:
            return {**given, "norm": parse_encoder(given["name"]).default_norm}
        return given

    @model_validator(mode="after")
    def _buildable(self) -> EncoderSpec:
        parse_encoder(self.name).check(norm=self.norm, width=self.width)
        return self


class ProjectorSpec(Part):
    """The MLP with the l2-bottleneck on top of the encoder (paper, appendix E.1)."""

    hidden: tuple[int, ...] = (2048, 2048)
    """Widths of the hidden layers, each >= 1; may be empty."""
    bottleneck: int = Field(256, ge=1, le=65536)
    """Width k of the l2-bottleneck; 1 to 65,536."""
    out_dim: int = Field(65536, ge=1, le=65536)
    """Output dimension m; 1 to 65,536."""

    @model_validator(mode="after")
    def _widths(self) -> ProjectorSpec:
        bad = [width for width in self.hidden if width < 1]
        if bad:
            raise ValueError(f"hidden widths must be at least 1, not {bad}")
        return self


class StudentSpec(Part):
    """Where the student starts (paper, section 4, local initialisation)."""

    alpha: float = Field(1e-10, ge=0, le=1)
    """Locality: 0 starts at the teacher, 1 at an independent draw; in [0, 1]."""


class OptimizerSpec(Part):
    """How the student's parameters are updated, at a constant learning rate."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam, adamw or sgd, as in torch.optim."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate; > 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, decoupled for adamw; >= 0."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd, in [0, 1); the others have none."""

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> OptimizerSpec:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.name} has none, so leave it at 0")
        return self


class TrainSpec(Part):
    """The length of training and its steps."""

    epochs: int = Field(100, ge=1)
    """Passes over the training images; >= 1."""
    batch_size: int = Field(256, ge=1)
    """Images a step; the last step of an epoch takes what is left."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""


class ProbeSpec(Part):
    """How embeddings are measured with labels (paper, section 3 'Probing', appendix C.1)."""

    every: Duration | None = "5ep"
    """How often the student is probed; null: at the end alone. It is always probed at start and end."""
    linear: bool = True
    """Whether a linear classifier is trained on the embeddings."""
    knn: int = Field(20, ge=0)
    """Neighbours of the k-nearest-neighbour classifier; 0 leaves it out."""
    standardized: bool = True
    """Whether both are repeated on embeddings standardised per dimension."""
    epochs: int = Field(10, ge=1)
    """Epochs of the linear classifier."""
    batch_size: int = Field(256, ge=1)
    """Embeddings a step of the linear classifier."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the linear classifier's AdamW."""

    @model_validator(mode="after")
    def _something(self) -> ProbeSpec:
        if not self.linear and not self.knn:
            raise ValueError("nothing would be probed: set linear to true or knn to 1 or more")
        return self


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
