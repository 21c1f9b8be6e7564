"""Ctrl-C and SIGTERM: the first asks for a checkpoint and an orderly end, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = "stopping: a checkpoint is written first; once more to stop at once"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """Whether the user, or the system, has asked this process to stop.

    Args:
        say: is told, once, in a sentence.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked = threading.Event()

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask; a second time raises KeyboardInterrupt."""
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
        self._say(NOTICE)


@contextmanager
def stopping_on_signals(say: Callable[[str], None]) -> Iterator[Stopping]:
    """While active, SIGINT and SIGTERM ask the yielded object to stop; afterwards they do what they did before.

    Args:
        say: is told of the first signal, in a sentence.
    """
    stopping = Stopping(say)

    def handle(number: int, frame: FrameType | None) -> None:
        stopping.ask()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
