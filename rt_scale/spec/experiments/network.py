"""A network of another run, which an analysis reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.networks import Taken
from rt_scale.spec.part import Argument

MOST_NETWORKS = 100
"""Networks that a spec lists at most."""


class NetworkOf(Taken):
    """A network of a run; read it with ``experiments.dependencies.weights_of``.

    The run is executed first, once, unless only init or a teacher that never moves is taken.
    """

    @model_validator(mode="after")
    def _of_the_students_size(self) -> NetworkOf:
        if self.take == "teacher" and self.run.teacher.width is not None:
            raise ValueError("a teacher of another width than its student cannot be analysed: take student or init")
        return self


NetworkOf.model_rebuild(_types_namespace={"TrainingSpec": TrainingSpec})


class Family(Taken):
    """Networks of runs that differ in one field; in a spec each is written out."""

    vary: str
    """The dotted field in which the runs differ, e.g. seeds.order."""
    values: tuple[Argument, ...] = Field(strict=False, max_length=MOST_NETWORKS)
    """Its values, one a run, e.g. [0, 1, 2, 3, 4]."""

    @property
    def networks(self) -> tuple[NetworkOf, ...]:
        """The network of each run; InputError for a field that such runs do not have."""
        from rt_scale.spec.document import check_field, set_dotted  # which imports all kinds

        check_field("field in vary", self.vary, [type(self.run)])
        documents = [set_dotted(self.run.canonical(), self.vary, value) for value in self.values]
        return tuple(NetworkOf.model_validate({"run": document, "take": self.take}) for document in documents)


def _written_out(given: object) -> object:
    return Family.model_validate(given).networks if isinstance(given, Mapping) else given


Family.model_rebuild(_types_namespace={"TrainingSpec": TrainingSpec})
Networks = Annotated[
    tuple[NetworkOf, ...], BeforeValidator(_written_out, json_schema_input_type=Family | tuple[NetworkOf, ...])
]
"""A list of {run, take}, or a ``Family``."""


def plugins_of(run: TrainingSpec) -> dict[str, str]:
    """The plugins of a run that measuring its networks uses, encoder and images: reference -> SHA-256 of its source."""
    used = (run.encoder.plugin, run.data.plugin)
    return {name: source for name, source in run.plugins.items() if name in used}
