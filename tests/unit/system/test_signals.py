"""The first Ctrl-C, SIGTERM or SIGHUP asks, the second ends."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from rt_scale.system import signals as module
from rt_scale.system.signals import NOTICE, SIGNALS, handled_signals, stopping_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """As they were, whatever a test and pytest's own parents did to them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr(module, "TWICE", 0.0)
    said: list[str] = []
    with stopping_on_signals(said.append) as stopping:
        assert not stopping()
        os.kill(os.getpid(), number)
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert said == [NOTICE]
    assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_DFL] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_wish_may_come_as_two_signals(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """As from `timeout`, and from a terminal that closes and its shell."""
    monkeypatch.setattr(module, "TWICE", math.inf)
    with stopping_on_signals(lambda text: None) as stopping:
        for _ in range(2):
            os.kill(os.getpid(), number)
        assert stopping()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_whoever_is_told_may_ask_already() -> None:
    """Runs can be told first, and what is said cannot come into the middle of a print."""
    known: list[tuple[bool, bool]] = []
    with stopping_on_signals(lambda _: known.append((stopping(), threading.current_thread() is main))) as stopping:
        main = threading.current_thread()
        os.kill(os.getpid(), signal.SIGINT)
    assert known == [(True, False)]


def test_nothing_is_said_where_nobody_asked() -> None:
    said: list[str] = []
    with stopping_on_signals(said.append) as stopping:
        pass
    assert not said
    assert not stopping()


def test_a_process_that_is_to_outlive_its_terminal_does() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping_on_signals(lambda text: None) as stopping:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stopping()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert handled_signals() == [signal.SIGINT, signal.SIGTERM]


def test_another_thread_is_never_asked_and_changes_no_handler() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    seen: list[object] = []

    def work() -> None:
        with stopping_on_signals(seen.append) as stopping:
            seen.append(stopping())
            seen.append({number: signal.getsignal(number) for number in SIGNALS} == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]
