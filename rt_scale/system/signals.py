"""Ctrl-C, SIGTERM, SIGHUP: the first requests a checkpoint and an orderly stop, the second stops at once."""

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
"""Seconds within which a second SIGTERM counts as the same request."""


def handled_signals() -> list[signal.Signals]:
    """The signals that stop this process; not SIGHUP if it is ignored, as under nohup."""
    return [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


class Stopping:
    """Whether a signal has asked this process to stop; calling it returns the answer."""

    def __init__(self) -> None:
        self._asked, self._since = False, 0.0
        self._news = threading.Event()

    def __call__(self) -> bool:
        return self._asked

    def ask(self, number: int) -> None:
        """Ask to stop; a second request raises KeyboardInterrupt. Prints nothing: a signal may interrupt a print.

        A closing terminal and its shell each send SIGHUP, and `timeout` sends SIGTERM twice: these are one request.
        """
        now = time.monotonic()
        if not self._asked:
            self._asked, self._since = True, now
            self._news.set()
        elif number == signal.SIGINT or (number == signal.SIGTERM and now - self._since >= TWICE):
            raise KeyboardInterrupt

    def over(self) -> None:
        """End :meth:`tell`: the work is done."""
        self._news.set()

    def tell(self, say: Callable[[str], None]) -> None:
        """Wait for the first request and pass the notice to ``say``, or return when :meth:`over` is called."""
        self._news.wait()
        if self._asked:
            say(NOTICE)


@contextmanager
def stopping_on_signals(say: Callable[[str], None]) -> Iterator[Stopping]:
    """While active, SIGINT, SIGTERM and SIGHUP set the yielded object; the previous handlers are restored at the end.

    A thread calls ``say`` at the first signal, after the object is set. In any thread but the main one, which alone
    receives signals, nothing is set.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stopping.ask(number)

    thread = threading.Thread(target=stopping.tell, args=(say,), name="stopping", daemon=True)
    thread.start()
    before = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stopping.over()
        thread.join()
