"""What a sweep tells whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class View(Protocol):
    """Whoever shows a sweep while it runs. Told by the driver's main thread alone."""

    def running(self, label: str, report: Mapping[str, Any]) -> None:
        """A run reported.

        Args:
            label: the axes' values.
            report: ``step`` and ``steps`` (0: not known yet), ``stage``, ``values`` (newest measurements by
                name), ``where`` (devices), and ``warning`` where there is one.
        """

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
