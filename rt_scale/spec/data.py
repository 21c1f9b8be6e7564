"""DataSpec: the images of a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rt_scale.spec.part import MOST, DataName, Part

GAUSSIAN = "gaussian"
"""Name of the data set that is drawn, not prepared."""

LEAST_SIZE, LARGEST_SIZE = 4, 512
"""Sides, in pixels, that images can be resized to."""


class DataSpec(Part):
    """The images that the student is distilled and probed on."""

    name: DataName
    """Name of a prepared data set (`rt-scale data list`), or gaussian: noise inputs (paper, figure 4)."""
    size: int | None = Field(None, ge=LEAST_SIZE, le=LARGEST_SIZE)
    """Side in pixels to which images are resized on the device (bilinear, antialiased); null: as prepared.
    Of gaussian the side that it is drawn at."""
    samples: int | None = Field(None, ge=1, le=MOST)
    """Training images used: a class-balanced subset, nested for one data seed; null: the whole split."""
    sigma: float | None = Field(None, gt=0, json_schema_extra={"neutral": None})
    """Of gaussian alone: standard deviation of every input value; left out: 1."""
    channels: Literal[1, 3] | None = Field(None, json_schema_extra={"neutral": None})
    """Of gaussian alone: channels of an input; left out: 3."""

    @model_validator(mode="after")
    def _noise(self) -> DataSpec:
        if self.name == GAUSSIAN:
            missing = [name for name in ("size", "samples") if getattr(self, name) is None]
            if missing:
                raise ValueError(f"gaussian inputs are drawn, so say how: {' and '.join(missing)} must be given")
            self.__dict__["sigma"] = 1.0 if self.sigma is None else self.sigma
            self.__dict__["channels"] = self.channels or 3
            return self
        given = [name for name in ("sigma", "channels") if getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"{' and '.join(given)} belong to data.name: gaussian; '{self.name}' has its own, so leave them out, "
                "or at null"
            )
        return self
