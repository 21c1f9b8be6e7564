"""How work under way hears that it is to stop: it asks, between two pieces of itself."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Whether the work is asked to stop; cheap, as it is called often."""
Heed = Callable[[], None]
"""Called between two pieces of work; raises where the work is to be left."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did so with everything kept that it goes on from."""


def never() -> bool:
    """Nobody asks."""
    return False


def go_on() -> None:
    """Nothing is heeded."""


def heeding(stop: Stop) -> Heed:
    """Raises :class:`Stopped` once ``stop`` says so."""

    def heed() -> None:
        if stop():
            raise Stopped

    return heed
