"""Stop requests: running work checks for them between two pieces of work."""

from __future__ import annotations

from collections.abc import Callable

Stop = Callable[[], bool]
"""Returns whether the work should stop; called often, so it must be cheap."""
StopCheck = Callable[[], None]
"""Called between two pieces of work; raises :class:`Stopped` if the work should stop."""


class Stopped(KeyboardInterrupt):
    """The run stopped on request; its checkpoints are kept."""


def never() -> bool:
    """A ``Stop`` that is always false."""
    return False


def no_check() -> None:
    """A ``StopCheck`` that never raises."""


def stop_check(stop: Stop) -> StopCheck:
    """A check that raises :class:`Stopped` once ``stop()`` is true."""

    def check_stop() -> None:
        if stop():
            raise Stopped

    return check_stop
