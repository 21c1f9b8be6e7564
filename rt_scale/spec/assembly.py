"""Specs from documents that have most of their parts in common, as those of a grid have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rt_scale.spec.part import Part
from rt_scale.spec.run import RunSpec


class Assembler:
    """Makes RunSpecs, and every part once however many of them have it.

    What parts must be to each other is checked for every spec. Specs share parts, which are frozen, and with
    them the text that is hashed.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], Any] = {}

    def make(self, document: Mapping[str, Any]) -> RunSpec:
        """The spec of a document.

        Raises:
            ValidationError: the same as ``RunSpec.model_validate`` raises.
        """
        return RunSpec.model_validate({name: self._part(name, value) for name, value in document.items()})

    def _part(self, name: str, value: Any) -> Any:
        """The validated part; one that is wrong stays as it is, for RunSpec to say so with all else that is."""
        model = _MODELS.get(name)
        if model is None:
            return value
        key = (name, repr(value))  # not the value: 1, 1.0 and true are equal, and not the same
        if key not in self._parts:
            try:
                self._parts[key] = model.model_validate(self._with_run(value))
            except ValidationError:
                self._parts[key] = value
        return self._parts[key]

    def _with_run(self, value: Any) -> Any:
        """A part that starts from a run gets that run made here, too."""
        start = value.get("start_from") if isinstance(value, Mapping) else None
        if not isinstance(start, Mapping) or not isinstance(start.get("run"), Mapping):
            return value
        return {**value, "start_from": {**start, "run": self.make(start["run"])}}


_MODELS = {
    name: field.annotation
    for name, field in RunSpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Part)
}
