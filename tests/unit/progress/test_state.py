"""How long a sweep still takes, from what its runs report."""

from __future__ import annotations

import io

import pytest
from rich.progress import Progress, Task

from rt_scale.progress.terminal import WINDOW, SweepState, time_left
from rt_scale.scheduler.job import RunReport
from rt_scale.system.console import PlainConsole


class Reported:
    """A sweep whose runs report at times of the test's choice."""

    def __init__(self) -> None:
        self.now = 0.0
        self.progress = Progress(
            console=PlainConsole(file=io.StringIO()), get_time=lambda: self.now, speed_estimate_period=float("inf"),
            auto_refresh=False,
        )  # fmt: skip
        self.state = SweepState(10, 0, self.progress)

    def run(self, label: str, *reports: tuple[float, int], steps: int = 100) -> Task:
        for self.now, step in reports:
            self.state.report(label, RunReport(step=step, steps=steps))
        return next(task for task in self.progress.tasks if task.description == label)


@pytest.fixture
def sweep() -> Reported:
    return Reported()


def test_a_rate_is_known_once_steps_were_made(sweep: Reported) -> None:
    task = sweep.run("a", (5, 0), (9, 0), (10, 20))
    assert (task.speed, task.time_remaining) == (None, None)
    task = sweep.run("a", (15, 40))
    assert (task.speed, task.time_remaining) == (4, 15)


def test_a_rate_counts_from_the_checkpoint_that_a_run_goes_on_from(sweep: Reported) -> None:
    resumed = sweep.run("resumed", (5, 40), (10, 60))
    assert (resumed.speed, resumed.time_remaining) == (4, 10)
    fell_back = sweep.run("fell back", (10, 90), (20, 50), (30, 60), (40, 70))
    assert (fell_back.speed, fell_back.time_remaining) == (1, 30)


def test_pauses_between_steps_count(sweep: Reported) -> None:
    """Between two of them a run may probe for minutes."""
    assert sweep.run("a", (0, 1), (10, 21), (500, 41), (510, 52)).speed == 0.1


def test_a_slot_is_one_for_a_while_after_its_run_ended(sweep: Reported) -> None:
    for label in "abc":
        sweep.run(label, (100, 0))
    sweep.now = 110
    sweep.state.finish("a", "done", {})
    assert sweep.state._slots() == 3
    sweep.now = 109 + WINDOW
    assert sweep.state._slots() == 3
    sweep.now = 110 + WINDOW
    assert sweep.state._slots() == 2


def test_nothing_is_known_of_a_sweep_before_anything_moved(sweep: Reported) -> None:
    assert time_left([], queued=4, slots=2, usual=None) == ""
    assert time_left([sweep.run("a", (0, 0), (5, 0))], queued=4, slots=2, usual=None) == ""


def test_the_time_left_is_that_of_the_slot_that_is_through_last(sweep: Reported) -> None:
    fast = sweep.run("fast", (0, 10), (10, 60))  # 8 seconds to go
    slow = sweep.run("slow", (0, 1), (10, 11))  # 89
    both = [fast, slow]
    assert time_left(both, queued=0, slots=2, usual=20) == "about 1m 29s left"
    assert time_left(both, queued=1, slots=2, usual=95) == "about 1m 43s left"
    assert time_left(both, queued=4, slots=2, usual=95) == "about 4m 39s left"
    # A slot that is free for a moment takes its share.
    assert time_left([slow], queued=1, slots=2, usual=40) == "about 1m 29s left"
    assert time_left([], queued=5, slots=2, usual=10) == "about 30s left"


def test_a_run_without_steps_yet_takes_as_long_as_others_did(sweep: Reported) -> None:
    task = sweep.run("a", (0, 0), (10, 0))
    assert time_left([task], queued=0, slots=1, usual=25) == "about 15s left"
    sweep.now = 90
    assert time_left([task], queued=0, slots=1, usual=25) == "about 0s left"


def test_steps_alone_are_no_measurement_of_what_has_not_begun(sweep: Reported) -> None:
    task = sweep.run("a", (0, 10), (10, 60))  # 8 seconds to go of 20
    assert time_left([task], queued=0, slots=1, usual=None) == "about 8s left"
    assert time_left([task], queued=2, slots=1, usual=None) == "at least 48s left"
    other = sweep.run("b", (10, 0))
    assert time_left([task, other], queued=0, slots=2, usual=None) == "at least 20s left"
