"""What the student's training minimises, how long it takes, and its optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rt_scale.spec.part import MOST, Part
from rt_scale.spec.schedule import Duration, Scheduled
from rt_scale.spec.schedule import parse as parse_schedule


class ObjectiveSpec(Part):
    """The distance between student and teacher, or, in a run of kind supervise, labels."""

    name: Literal["cross_entropy", "kl", "mse"] = Field("cross_entropy", json_schema_extra={"neutral": "cross_entropy"})
    """cross_entropy and kl (of softmaxes, summed over outputs; equal gradients), or mse (of logits, mean over
    outputs); all averaged over images and pairs of views. Kind supervise has cross_entropy alone."""
    pairing: Literal["same", "opposite", "all"] = Field("same", json_schema_extra={"neutral": "same"})
    """Which views of an image are compared: a teacher's (global) view with the student's same view, with all its
    others (opposite, as in DINO), or with all."""
    label_noise: float = Field(0.0, ge=0, le=1, json_schema_extra={"neutral": 0.0})
    """Of kind supervise: share of the training images whose label is drawn anew, uniformly from all classes."""


class OptimizerSpec(Part):
    """How the student's parameters are updated."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam, adamw or sgd, as in torch.optim."""
    lr: Scheduled = 1e-3
    """Learning rate, a number > 0 or a schedule such as linear(0, 5e-4, 10ep) + cosine(5e-4, 1e-6)."""
    weight_decay: Scheduled = 0.0
    """Weight decay, decoupled for adamw, a number >= 0 or a schedule such as cosine(0.04, 0.4)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of sgd, in [0, 1); the others have none."""
    decay_norm_and_bias: bool = Field(True, json_schema_extra={"neutral": True})
    """Whether weight decay acts on normalisation scales and biases (parameters of one dimension), too."""
    clip: float | None = Field(None, gt=0, json_schema_extra={"neutral": None})
    """Largest l2 norm of the whole gradient, to which a longer one is shortened; > 0, null: no limit."""

    @field_validator("lr", "weight_decay")
    @classmethod
    def _not_negative(cls, value: float | str, info: ValidationInfo) -> float | str:
        low, high = parse_schedule(value).bounds
        if low < 0 or (info.field_name == "lr" and high == 0):
            wanted = "must be greater than 0" if info.field_name == "lr" else "must be greater than or equal to 0"
            raise ValueError(f"{wanted}, but {value} was given, which goes from {low:g} to {high:g}")
        return value

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> OptimizerSpec:
        if self.momentum and self.name != "sgd":
            raise ValueError(f"momentum belongs to sgd; {self.name} has none, so leave it at 0")
        return self


class TrainSpec(Part):
    """The length of training and its steps."""

    epochs: int = Field(100, ge=1, le=MOST)
    """Passes over the training images; >= 1."""
    batch_size: int = Field(256, ge=1, le=MOST)
    """Images a step; the last step of an epoch takes what is left."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""
    freeze_last: Duration | None = Field(None, json_schema_extra={"neutral": None})
    """How long the projector's last layer stays as it started, e.g. 1ep; null: it is trained at once."""
