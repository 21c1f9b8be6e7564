"""ObjectiveSpec: what the student's training minimises."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rt_scale.spec.part import Part


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
