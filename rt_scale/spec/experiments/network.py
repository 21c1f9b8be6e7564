"""A network of another run, which an analysis reads."""

from __future__ import annotations

from typing import Literal

from pydantic import SerializeAsAny

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.part import Part


class NetworkOf(Part):
    """A network of a run, which is a spec itself and is executed first, once."""

    run: SerializeAsAny[TrainingSpec]
    """The run, as a whole spec."""
    take: Literal["student", "teacher", "init"] = "student"
    """Its network: student (trained), teacher (at the end) or init (the student at its start)."""
