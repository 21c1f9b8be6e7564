"""Ctrl-C, SIGTERM, SIGHUP: the first asks for a checkpoint and an orderly end, the second ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NOTICE = "stopping: a checkpoint is written first; once more to stop at once"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TWICE = 1.0
"""Seconds within which a second SIGTERM is the same wish."""


def handled_signals() -> list[signal.Signals]:
    """Those that stop this process; SIGHUP is none where the process is to outlive its terminal, as nohup has it."""
    return [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


class Stopping:
    """Whether the user, or the system, has asked this process to stop."""

    def __init__(self) -> None:
        self._asked, self._since = False, 0.0
        self._news = threading.Event()

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def ask(self, number: int) -> None:
        """Ask; a second time raises KeyboardInterrupt. Prints nothing: a signal may come in the middle of a print.

        A terminal that closes and its shell each send SIGHUP, and `timeout` sends SIGTERM twice at once: one wish.
        """
        now = time.monotonic()
        if not self._asked:
            self._asked, self._since = True, now
            self._news.set()
        elif number == signal.SIGINT or (number == signal.SIGTERM and now - self._since >= TWICE):
            raise KeyboardInterrupt

    def over(self) -> None:
        """Nothing is left to stop."""
        self._news.set()

    def tell(self, say: Callable[[str], None]) -> None:
        """Wait until it is asked, which ``say`` is told in a sentence, or until it is over."""
        self._news.wait()
        if self._asked:
            say(NOTICE)


@contextmanager
def stopping_on_signals(say: Callable[[str], None]) -> Iterator[Stopping]:
    """While active, SIGINT, SIGTERM and SIGHUP ask the yielded object to stop; afterwards they do what they did before.

    ``say`` is told of the first signal, by a thread of its own, when ``Stopping`` knows already.
    """
    stopping = Stopping()

    def handle(number: int, frame: FrameType | None) -> None:
        stopping.ask(number)

    teller = threading.Thread(target=stopping.tell, args=(say,), name="stopping", daemon=True)
    teller.start()
    before = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping.over()
        teller.join()
