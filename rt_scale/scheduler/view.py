"""What a sweep tells whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class RunReport:
    """How a run stands, as its process says once a second.

    Attributes:
        step: optimiser steps done.
        steps: all of them; 0 while that is not known.
        began: the step that this attempt started at; None before training.
        stage: what is being done.
        where: what it is executed on, in words.
        epoch: at the newest measurements.
        values: newest measurements by name.
        warnings: new ones.
    """

    step: int = 0
    steps: int = 0
    began: int | None = None
    stage: str = "starting"
    where: str = ""
    epoch: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class View(Protocol):
    """Whoever shows a sweep while it runs. Told by the driver's main thread alone."""

    def running(self, label: str, report: RunReport) -> None:
        """A run, ``label`` (the axes' values), reported."""

    def waiting(self, label: str, why: str, seconds: float | None, *, held: bool = False) -> None:
        """A run is back in the queue.

        Args:
            label: the axes' values.
            why: for what reason.
            seconds: until it is tried again, where that is known.
            held: whether another driver executes it, who tells what becomes of it.
        """

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None) -> None:
        """A run is complete, with its last measurements ``values``, or failed for the reason ``error``."""

    def stopped(self, label: str, why: str) -> None:
        """A scheduler ended a run early."""

    def added(self, count: int) -> None:
        """``count`` more runs are to be done; fewer where it is negative."""

    def tick(self) -> None:
        """Nothing happened; called a few times a second."""

    def said(self, text: str) -> None:
        """Something to keep was said."""
