"""Training: its length and its optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rt_scale.spec.part import Part


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
