"""Ctrl-C, SIGTERM, SIGHUP: the first requests a checkpoint and an orderly stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rt_scale.spec.stopping import Stop

NOTICE = "stopping: a checkpoint is written first; once more to stop at once"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TWICE = 1.0
"""Seconds within which a second SIGTERM counts as the same request."""


def handled_signals() -> list[signal.Signals]:
    """The signals that stop this process; not SIGHUP if it is ignored, as under nohup. None in other threads."""
    if threading.current_thread() is not threading.main_thread():  # the main one alone receives signals
        return []
    return [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


@contextmanager
def stopping_on_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """While active, SIGINT, SIGTERM and SIGHUP make the yielded function return True; handlers are restored at the end.

    A thread calls ``say`` at the first signal, as a handler may interrupt a print. A second request raises
    KeyboardInterrupt. A closing terminal and its shell each send SIGHUP, and `timeout` sends SIGTERM twice: these are
    one request.
    """
    since: list[float] = []
    news = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not since:
            since.append(now)
            news.set()
        elif number == signal.SIGINT or (number == signal.SIGTERM and now - since[0] >= TWICE):
            raise KeyboardInterrupt

    def tell() -> None:
        news.wait()
        if since:
            say(NOTICE)

    thread = threading.Thread(target=tell, name="stopping", daemon=True)
    thread.start()
    before = {number: signal.signal(number, handle) for number in handled_signals()}
    try:
        yield lambda: bool(since)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        news.set()
        thread.join()
