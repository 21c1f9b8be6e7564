"""The first Ctrl-C or SIGTERM asks, the second ends."""

from __future__ import annotations

import os
import signal

import pytest

from rt_scale.launch.stopping import NOTICE, SIGNALS, stopping_on_signals


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    said: list[str] = []
    before = [signal.getsignal(each) for each in SIGNALS]
    with stopping_on_signals(said.append) as stopping:
        assert not stopping()
        os.kill(os.getpid(), number)
        assert stopping()
        assert said == [NOTICE]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert said == [NOTICE]
    assert [signal.getsignal(each) for each in SIGNALS] == before
