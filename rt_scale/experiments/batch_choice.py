"""How many students train together, as it was decided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Packing:
    """With how many others a run trains as one batched network, and why.

    Attributes:
        size: students together, this one included.
        reason: in words.
        seconds: measured, students together -> seconds that a step of one of them takes.
    """

    size: int = 1
    reason: str = "not asked for"
    seconds: Mapping[int, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``environment.json``."""
        return {**dataclasses.asdict(self), "seconds": {str(size): value for size, value in self.seconds.items()}}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Packing:
        """Undo :meth:`to_json`."""
        return cls(values["size"], values["reason"], {int(size): value for size, value in values["seconds"].items()})
