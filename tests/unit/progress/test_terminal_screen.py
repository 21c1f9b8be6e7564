"""The live view as a terminal shows it."""

from __future__ import annotations

import sys
import threading

import pytest

from rt_scale.progress.terminal import REFRESH
from tests.unit.progress.watched import ERASE, PROBES, VALUES, Watched, report


def test_a_terminal_shows_what_runs_and_keeps_what_is_through() -> None:
    watched = Watched(terminal=True, total=9, done_before=1)
    with watched.view as view:
        view.running("alpha=[0.5]", report(0, "cuda:0"))
        view.running("alpha=1", report(0, "2 workers cuda:0-1", stage="probing the teacher"))
        view.running("alpha=1", report(1, "2 workers cuda:0-1"))
        watched.now += 40
        view.running("alpha=1", report(5, "2 workers cuda:0-1", values=VALUES))
        view.finished("alpha=[0.5]", None, VALUES)
        view.finished("alpha=0.7", "diverged [badly]")
        assert watched.shown() == [
            "alpha=1  ━━━━━        50 %  0.1 steps/s  50s left  2 workers cuda:0-1  training  linear 45.7, knn 90.0",
            "2 of 9 done, 1 running, 1 failed, 5 to start",
            "40s so far, 90 runs an hour, about 2m 10s left",
            "best of those run now: linear 45.7 (teacher 25.0)  alpha=[0.5]",
        ]
        watched.now += 1
        view.tick()
        last = watched.written.rpartition(ERASE)[2]
        assert "41s so far" in last
        assert "\x1b[1;31m1 failed" in last
        assert "alpha=[0.5]  ━" not in last
    assert f"[2/9] alpha=[0.5]  {PROBES}  40s on cuda:0\n" in watched.written
    assert "\x1b[31m[3/9] alpha=0.7  FAILED: diverged [badly]" in watched.written
    # All of the picture is taken away in the end, and the cursor is there again.
    assert watched.written.rstrip("\x1b[2K1A").endswith("\x1b[?25h\r")


def test_a_terminal_is_drawn_a_few_times_a_second_and_no_more() -> None:
    watched = Watched(terminal=True)
    with watched.view as view:
        before = watched.written
        for _ in range(100):
            view.running("a", report(1))
            view.tick()
            watched.now += REFRESH / 1000
        assert watched.written == before
        watched.now += REFRESH
        view.tick()
        view.tick()
        assert watched.written.removeprefix(before).count("1 running") == 1


def test_a_line_is_never_drawn_above_a_row_of_the_same_run() -> None:
    watched = Watched(terminal=True, total=2)
    with watched.view as view:
        view.running("only", report(1))
        watched.now += REFRESH
        view.tick()
        before = watched.written
        view.finished("only", None)
        assert watched.written.removeprefix(before).count("only") == 1


@pytest.mark.parametrize("height", [1, 2, 4, 7])
def test_a_picture_fits_a_tiny_terminal(height: int) -> None:
    watched = Watched(terminal=True, height=height, total=50)
    with watched.view as view:
        for number in range(40):
            view.running(f"seed={number}", report(1, values=VALUES))
        watched.now += 1
        view.tick()
        shown = watched.shown()
    assert len(shown) == max(1, height - 1)
    assert "0 of 50 done, 40 running, 10 to start" in shown
    assert ("and 38 more" in shown) == (height == 7)


def test_a_resize_is_seen_by_the_next_picture() -> None:
    watched = Watched(terminal=True, total=50)
    with watched.view as view:
        for number in range(40):
            view.running(f"seed={number}", report(1))
        watched.console.size = (30, 8)  # type: ignore[assignment]
        watched.now += 1
        view.tick()
        last = watched.written.rpartition(ERASE)[2]
    assert last.count("\n") == 6
    assert "and 38 more" in last


def test_a_dumb_terminal_is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    watched = Watched(terminal=True)
    with watched.view as view:
        view.running("a", report(1))
        view.finished("a", None)
        assert watched.summary() == "1 of 5 done, 4 to start; 30s so far, 120 runs an hour, about 0s left"
    assert watched.lines[0] == "[1/5] a  0s on cpu"


def test_what_others_print_is_not_drawn() -> None:
    before = sys.stdout, sys.stderr
    with Watched(terminal=True).view:
        assert (sys.stdout, sys.stderr) == before


def test_no_other_thread_draws() -> None:
    before = set(threading.enumerate())
    with Watched(terminal=True).view:
        assert set(threading.enumerate()) <= before


def test_an_error_leaves_a_clean_terminal() -> None:
    watched = Watched(terminal=True)

    def work() -> None:
        with watched.view as view:
            view.running("a", report(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "\x1b[?25h" in watched.written
