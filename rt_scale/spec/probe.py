"""How embeddings are measured with labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from rt_scale.spec.part import MOST, DataName, Part
from rt_scale.spec.schedule import Duration


class ProbeSpec(Part):
    """How embeddings are measured with labels (paper, section 3 'Probing', appendix C.1)."""

    every: Duration | None = "5ep"
    """How often the student is probed; null: at the end alone. It is always probed at start and end."""
    linear: bool = True
    """Whether a linear classifier is trained on the embeddings."""
    knn: int = Field(20, ge=0, le=MOST)
    """Neighbours of the k-nearest-neighbour classifier; 0 leaves it out."""
    standardized: bool = True
    """Whether all of them are repeated on embeddings standardised per dimension."""
    epochs: int = Field(10, ge=1, le=MOST)
    """Epochs of the linear classifier."""
    batch_size: int = Field(256, ge=1, le=MOST)
    """Embeddings a step of the linear classifier."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of the linear classifier's AdamW."""
    logistic: bool = Field(False, json_schema_extra={"neutral": False})
    """Whether multinomial logistic regression is fitted to convergence as well: a screen, not the paper's probe."""
    ridge: bool = Field(False, json_schema_extra={"neutral": False})
    """Whether a ridge classifier is fitted in closed form as well: a quick screen, not the paper's probe."""
    l2: float = Field(1e-3, gt=0, json_schema_extra={"neutral": 1e-3})
    """Penalty of logistic and ridge on squared weights, beside the mean loss, for embeddings of mean variance 1."""
    also: tuple[DataName, ...] = Field((), strict=False, json_schema_extra={"neutral": ()})  # type: ignore[dict-item]
    """Other prepared data sets on whose whole splits the same embeddings are probed, e.g. [cifar100, stl10].

    As many channels as the encoder has are needed.
    """
    also_size: Literal["encoder", "own"] = Field("encoder", json_schema_extra={"neutral": "encoder"})
    """Size at which images of the sets of also are seen: encoder (resized to what the encoder was trained on), or own
    (each as it comes, as paper, tables 2 and 4: their teachers are those of tables 1 and 3). Without also, encoder."""
    own: bool = Field(True, json_schema_extra={"neutral": True})
    """Whether the data set that is distilled on is probed itself; false: those of also alone (millions of images)."""
    statistics: bool = Field(False, json_schema_extra={"neutral": False})
    """Whether every probing also measures what embeddings are like: rank, dead units, agreement with the teacher,
    and distance and angle of encoder and projector from start and teacher."""

    @field_validator("also")
    @classmethod
    def _one_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Their order decides nothing: one meaning, one hash."""
        if len(set(names)) < len(names):
            raise ValueError(f"each data set is probed once; given were {', '.join(names)}")
        return tuple(sorted(names))

    @model_validator(mode="after")
    def _one_size(self) -> ProbeSpec:
        """Without other data sets their size decides nothing: one meaning, one hash."""
        if not self.also:
            self.__dict__["also_size"] = "encoder"
        return self

    @model_validator(mode="after")
    def _something(self) -> ProbeSpec:
        if not self.kinds:
            raise ValueError("nothing would be probed: set linear to true or knn to 1 or more")
        if not self.own and not self.also:
            raise ValueError("nothing would be probed: name data sets in also, or set own to true")
        if not self.own and self.statistics:
            raise ValueError("statistics are of the test images of the data set distilled on: set own to true")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the probes, e.g. ``linear``, ``knn``, ``linear_standardized``, ``knn_standardized``."""
        asked = {"linear": self.linear, "knn": self.knn > 0, "logistic": self.logistic, "ridge": self.ridge}
        plain = tuple(name for name, wanted in asked.items() if wanted)
        return plain + tuple(f"{name}_standardized" for name in plain if self.standardized)
