"""How running work learns that it is to stop: it asks between two pieces of work."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Whether the work is asked to stop; cheap, as it is called often."""
StopCheck = Callable[[], None]
"""Called between two pieces of work; raises :class:`Stopped` where the work is to stop."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and stopped; everything that it resumes from is kept."""


def never() -> bool:
    """Nobody asks the work to stop."""
    return False


def no_check() -> None:
    """Never raises: the work cannot be stopped."""


def stop_check(stop: Stop) -> StopCheck:
    """A check that raises :class:`Stopped` once ``stop()`` is true."""

    def check_stop() -> None:
        if stop():
            raise Stopped

    return check_stop
