from __future__ import annotations

import pytest

from rt_scale.progress.state import WINDOW, Left, Pace, Slots, sweep_left
from rt_scale.system.console import duration_text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-1, "0s"), (0, "0s"), (59.9, "59s"), (61, "1m 01s"), (7265, "2h 01m"), (86399, "23h 59m"), (280_000, "3d 05h")],
)
def test_durations(seconds: float, expected: str) -> None:
    assert duration_text(seconds) == expected


def paced(*reports: tuple[float, int], steps: int = 100, began: float = 0.0) -> Pace:
    pace = Pace(began)
    for now, step in reports:
        pace.reported(now, step, steps)
    return pace


def test_a_pace_is_known_once_steps_were_made() -> None:
    for pace in (paced(), paced((5, 0)), paced((5, 0), (9, 0))):
        assert (pace.rate, pace.whole, pace.left(10)) == (None, None, None)
    pace = paced((5, 0), (10, 20))
    assert (pace.rate, pace.whole, pace.left(10), pace.left(13)) == (4, 25, 20, 17)
    assert pace.left(1000) == 0


def test_time_before_the_first_step_does_not_count() -> None:
    assert paced((0, 0), (100, 0), (105, 20)).rate == 4


def test_a_pace_counts_from_the_checkpoint_that_a_run_goes_on_from() -> None:
    resumed = paced((5, 40), (10, 60))
    assert (resumed.rate, resumed.whole, resumed.left(10)) == (4, 25, 10)
    fell_back = paced((0, 0), (10, 90), (20, 50), (30, 60))
    assert (fell_back.rate, fell_back.left(30)) == (1, 40)


def test_a_length_that_was_not_known_before_starts_the_pace() -> None:
    pace = Pace(0)
    pace.reported(0, 0, 0)
    pace.reported(50, 30, 60)
    assert pace.rate is None
    pace.reported(60, 40, 60)
    assert (pace.rate, pace.left(60)) == (1, 20)


def test_a_slot_is_one_for_a_while_after_its_run_ended() -> None:
    slots = Slots()
    assert slots.count(0) == 1
    slots.saw(0, 3)
    slots.saw(10, 2)
    slots.saw(12, 2)
    assert slots.count(10 + WINDOW - 1) == 3
    assert slots.count(10 + WINDOW) == 2
    slots.saw(200, 0)
    assert slots.count(1000) == 1


def test_nothing_is_known_of_a_sweep_before_anything_moved() -> None:
    assert sweep_left([], 0, queued=4, slots=2, usual=None) is None
    assert sweep_left([paced((0, 0))], 5, queued=4, slots=2, usual=None) is None


def test_the_time_left_is_that_of_the_slot_that_is_through_last() -> None:
    running = [paced((0, 0), (10, 50)), paced((0, 0), (10, 10))]  # 10 and 90 seconds to go
    assert sweep_left(running, 10, queued=0, slots=2, usual=20) == Left(90, measured=True)
    assert sweep_left(running, 10, queued=1, slots=2, usual=95) == Left(105, measured=True)
    assert sweep_left(running, 10, queued=4, slots=2, usual=95) == Left(90 + 2 * 95, measured=True)
    # A slot that is free for a moment takes its share.
    assert sweep_left(running[1:], 10, queued=1, slots=2, usual=40) == Left(90, measured=True)
    assert sweep_left([], 10, queued=5, slots=2, usual=10) == Left(30, measured=True)


def test_a_run_without_steps_yet_takes_as_long_as_others_did() -> None:
    assert sweep_left([paced((0, 0))], 10, queued=0, slots=1, usual=25) == Left(15, measured=True)
    assert sweep_left([paced((0, 0))], 90, queued=0, slots=1, usual=25) == Left(0, measured=True)


def test_steps_alone_are_no_measurement_of_what_has_not_begun() -> None:
    running = [paced((0, 0), (10, 50))]
    assert sweep_left(running, 10, queued=0, slots=1, usual=None) == Left(10, measured=True)
    assert sweep_left(running, 10, queued=2, slots=1, usual=None) == Left(50, measured=False)
    assert sweep_left([*running, paced((9, 0), began=9)], 10, queued=0, slots=2, usual=None) == Left(19, measured=False)


def test_an_estimate_says_what_it_is_worth() -> None:
    assert str(Left(61, measured=True)) == "about 1m 01s left"
    assert str(Left(61, measured=False)) == "at least 1m 01s left"
