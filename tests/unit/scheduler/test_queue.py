"""The queue of a sweep: order, retries, other drivers, and what failing means for those that come after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rt_scale.scheduler.job import Job, JobOutcome, JobState, RunReport
from rt_scale.scheduler.queue import BACKOFF, LONGEST, LOOK_AGAIN, LOSSES, Queue, StoredRuns
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from tests.records import run_result


class Told:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.waits: list[tuple[str, str, float | None]] = []
        self.preemptions: list[tuple[str, str, float | None]] = []
        self.held: list[str] = []
        self.ends: list[tuple[str, str | None]] = []
        self.settled: list[tuple[str, str]] = []
        self.more = 0

    def running(self, label: str, report: Mapping[str, Any]) -> None:
        raise AssertionError("the queue does not show what runs report")

    def waiting(self, label: str, why: str, seconds: float | None, *, leased_elsewhere: bool = False) -> None:
        self.waits.append((label, why, seconds))
        if leased_elsewhere:
            self.held.append(label)

    def preempted(self, label: str, why: str, seconds: float | None) -> None:
        self.preemptions.append((label, why, seconds))

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None, by: str = "") -> None:
        self.ends.append((label, error))

    def stopped(self, label: str, why: str) -> None:
        self.settled.append((label, why))

    def added(self, count: int) -> None:
        self.more += count

    def tick(self) -> None: ...

    def said(self, text: str) -> None: ...


class Room:
    """A cluster that executes so many jobs of every launch section at once, and takes more than it has room for.

    Args:
        slots: of every launch section.
        most: of jobs of several workers, which it does not let wait.
    """

    def __init__(self, slots: int = 1, most: int = 10**9) -> None:
        self.slots, self.most = slots, most

    def at_once(self, launch: LaunchSpec) -> int:
        return self.slots

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        return launch.workers == 1 or running[launch] < self.most


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def spec(seed: int = 0, **more: Any) -> RunSpec:
    document = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "seeds": {"student": seed}, **more}
    return RunSpec.model_validate(document)


def after(first: RunSpec, seed: int = 0) -> RunSpec:
    start = {"run": first.model_dump(mode="json"), "take": "student"}
    return spec(seed, teacher={"start_from": start}, student={"start_from": start})


ONE, TWO = LaunchSpec(), LaunchSpec(workers=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def make(store: Store, *specs: RunSpec, launch: LaunchSpec = ONE, **more: Any) -> tuple[Queue, Told, Clock]:
    told, clock = Told(), Clock()
    tasks = [Job(f"run {number}", each, launch) for number, each in enumerate(specs)]
    return Queue(tasks, StoredRuns(store), told, Room(), clock=clock, **more), told, clock


def taken(queue: Queue) -> list[str]:
    found = []
    while jobs := queue.take():
        found += [job.label for job in jobs]
    return found


def finish(store: Store, each: RunSpec) -> None:
    with store.run(each).acquire():
        pass
    run_dir = store.run(each)
    with run_dir.acquire():
        run_dir.complete(run_result())


def test_runs_come_in_the_order_in_which_they_are_wanted(store: Store) -> None:
    specs = [spec(number) for number in range(3)]
    queue, told, _ = make(store, *specs, concurrency=2)
    assert taken(queue) == ["run 0", "run 1"]
    assert set(queue.live) == {specs[0].name, specs[1].name}
    queue.ended(specs[1].name, JobOutcome(JobState.DONE, values={"a": 1.0}))
    assert taken(queue) == ["run 2"]
    assert not queue.finished
    for each in (specs[0], specs[2]):
        queue.ended(each.name, JobOutcome(JobState.DONE))
    assert queue.finished
    assert told.ends == [("run 1", None), ("run 0", None), ("run 2", None)]


def test_room_is_for_each_launch_section_apart(store: Store) -> None:
    tasks = [Job(f"run {n}", spec(n), launch) for n, launch in enumerate([TWO, TWO, ONE, TWO, ONE])]
    queue = Queue(tasks, StoredRuns(store), Told(), Room(most=1))
    assert taken(queue) == ["run 0", "run 2", "run 4"]
    queue.ended(spec(0).name, JobOutcome(JobState.DONE))
    assert taken(queue) == ["run 1"]


def test_what_others_start_from_runs_first_and_once(store: Store) -> None:
    first = spec(7)
    seconds = [after(first, 1), after(first, 2)]
    queue, told, _ = make(store, *seconds)
    assert told.more == 1
    assert taken(queue) == [f"{first.name} (needed first)"]
    queue.ended(first.name, JobOutcome(JobState.DONE))
    assert taken(queue) == ["run 0", "run 1"]
    third = after(seconds[0], 3)
    queue.add(Job("third", third, ONE))
    assert taken(queue) == []
    queue.ended(seconds[0].name, JobOutcome(JobState.DONE))
    assert taken(queue) == ["third"]


def test_a_wanted_run_that_another_starts_from_keeps_its_label(store: Store) -> None:
    first = spec(7)
    queue, told, _ = make(store, after(first), first)
    assert (told.more, taken(queue)) == (0, ["run 1"])
    queue, told, _ = make(store, first, after(first))
    assert (told.more, taken(queue)) == (0, ["run 0"])


def test_what_is_done_already_is_not_waited_for(store: Store) -> None:
    first = spec(7)
    finish(store, first)
    queue, told, _ = make(store, after(first), first)
    assert (taken(queue), told.more) == (["run 0"], 0)


def test_one_that_fails_takes_those_along_that_start_from_it(store: Store) -> None:
    first = spec(7)
    second, other = after(first), spec(3)
    queue, told, _ = make(store, after(second), other, second)
    assert taken(queue) == [f"{first.name} (needed first)", "run 1"]
    queue.ended(first.name, JobOutcome(JobState.FAILED, "it diverged."))
    queue.ended(other.name, JobOutcome(JobState.DONE))
    assert queue.finished
    assert set(queue.failed) == {first.name, second.name, after(second).name}
    assert queue.failed[second.name] == f"The run {first.name}, which it needs, has no result: it diverged."
    assert queue.failed[after(second).name] == queue.failed[second.name]  # not a sentence for every run between
    assert len([error for _, error in told.ends if error]) == 3
    queue.add(Job("late", after(first, 5), ONE))
    assert queue.finished
    assert "it diverged." in queue.failed[after(first, 5).name]


def test_runs_given_up_before_are_not_tried(store: Store) -> None:
    first, other = spec(7), spec(1)
    queue, told, _ = make(store, first, after(first), other, given_up={first.name: "it failed before"})
    assert taken(queue) == ["run 2"]
    assert [label for label, error in told.ends if error] == ["run 0", "run 1"]


def test_a_process_that_dies_is_replaced_a_few_times(store: Store) -> None:
    each = spec()
    queue, told, clock = make(store, each, launch=LaunchSpec(retries=2))
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, JobOutcome(JobState.DIED, "its process died"))
    assert taken(queue) == ["run 0"]  # the first time at once
    queue.ended(each.name, JobOutcome(JobState.DIED, "its process died"))
    assert taken(queue) == []
    assert not queue.finished
    clock.now += BACKOFF
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, JobOutcome(JobState.DIED, "its process died"))
    assert queue.finished
    assert told.waits == [
        ("run 0", "its process died; try 2 of 3", None),
        ("run 0", "its process died; try 3 of 3", BACKOFF),
    ]
    assert told.held == []
    why = "its process died, 3 times in a row without a new checkpoint."
    assert told.ends == [("run 0", why)]
    assert store.run(each).status().state == "failed"
    assert (store.run(each).failure() or {})["reason"] == why


def test_the_pause_grows_to_a_minute(store: Store) -> None:
    queue, told, clock = make(store, spec(), launch=LaunchSpec(retries=9))
    for _ in range(9):
        clock.now += LONGEST
        assert taken(queue) == ["run 0"]
        queue.ended(spec().name, JobOutcome(JobState.STORE_UNAVAILABLE, "the store is away"))
    assert [seconds for *_, seconds in told.waits] == [None, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_run_that_gets_on_may_die_for_ever(store: Store) -> None:
    each = spec()
    queue, told, clock = make(store, each, launch=LaunchSpec(retries=1))
    for step in (0, 10, 20, 30):
        clock.now += LONGEST
        assert taken(queue) == ["run 0"]
        queue.reported(each.name, RunReport(began=step))
        queue.ended(each.name, JobOutcome(JobState.DIED, "gone"))
    assert [why for _, why, _ in told.waits] == ["gone; try 2 of 2"] * 4
    assert taken(queue) == ["run 0"]
    queue.reported(each.name, RunReport(began=30))  # no checkpoint since
    queue.ended(each.name, JobOutcome(JobState.DIED, "gone"))
    assert told.ends == [("run 0", "gone, 2 times in a row without a new checkpoint.")]


LOST = JobOutcome(JobState.PREEMPTED, "its node 10.0.0.3 was lost")


def test_a_run_whose_node_is_lost_goes_on_at_once_and_has_lost_no_try(store: Store) -> None:
    each = spec()
    queue, told, clock = make(store, each, launch=LaunchSpec(retries=1))
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, LOST)
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, JobOutcome(JobState.DIED, "gone"))
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, LOST)
    clock.now += BACKOFF
    assert taken(queue) == ["run 0"]
    assert told.preemptions == [("run 0", LOST.why, None), ("run 0", LOST.why, BACKOFF)]
    assert told.waits == [("run 0", "gone; try 2 of 2", None)]
    assert told.ends == []


def test_a_run_that_loses_node_after_node_is_given_up_unless_it_gets_on(store: Store) -> None:
    each = spec()
    queue, told, clock = make(store, each, launch=LaunchSpec(retries=0))
    for lost in range(LOSSES - 1):
        assert taken(queue) == ["run 0"]
        queue.reported(each.name, RunReport(began=0))
        queue.ended(each.name, LOST)
        clock.now += LONGEST
        assert told.ends == [], lost
    for step in (10, *[20] * LOSSES):  # it got on twice
        assert told.ends == []
        assert taken(queue) == ["run 0"]
        queue.reported(each.name, RunReport(began=step))
        queue.ended(each.name, LOST)
        clock.now += LONGEST
    assert told.ends == [("run 0", f"its node 10.0.0.3 was lost, {LOSSES} times in a row without a new checkpoint.")]
    assert store.run(each).status().state == "failed"


def test_a_section_is_given_up_but_for_what_is_live(store: Store) -> None:
    other = LaunchSpec(cpus=2)
    jobs = [Job(f"run {n}", spec(n), ONE) for n in range(3)] + [Job("other", spec(3), other)]
    told = Told()
    queue = Queue(jobs, StoredRuns(store), told, Room(), concurrency=2)
    assert taken(queue) == ["run 0", "run 1"]
    queue.ended(spec(1).name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
    queue.give_up(ONE, "no GPU is left.")
    assert queue.failed == {spec(1).name: "no GPU is left.", spec(2).name: "no GPU is left."}
    assert taken(queue) == ["other"]
    queue.ended(spec(0).name, JobOutcome(JobState.DONE))
    queue.ended(spec(3).name, JobOutcome(JobState.DONE))
    assert queue.finished
    assert store.run(spec(2)).failure() is None


def test_what_another_driver_executes_is_looked_at_now_and_then(store: Store) -> None:
    each = spec()
    queue, told, clock = make(store, each)
    assert taken(queue) == ["run 0"]
    run_dir = store.run(each)
    with run_dir.acquire():
        queue.ended(each.name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
        assert taken(queue) == []
        clock.now += LOOK_AGAIN
        assert taken(queue) == []  # still held
        assert not queue.finished
        run_dir.complete(run_result())
    assert told.waits == [("run 0", "another one does it", LOOK_AGAIN)]
    assert told.held == ["run 0"]
    clock.now += LOOK_AGAIN
    assert taken(queue) == []
    assert queue.finished
    assert told.ends == [("run 0", None)]


def test_what_another_driver_left_is_taken_over(store: Store) -> None:
    each = spec()
    queue, _, clock = make(store, each)
    assert taken(queue) == ["run 0"]
    queue.ended(each.name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
    clock.now += LOOK_AGAIN
    assert taken(queue) == ["run 0"]


def test_what_others_execute_is_left_to_them_once_nothing_else_can_start(store: Store) -> None:
    mine, theirs = spec(0), spec(1)
    queue, _, clock = make(store, mine, theirs, after(theirs), launch=LaunchSpec(retries=2), leave_others=True)
    assert taken(queue) == ["run 0", "run 1"]
    with (run_dir := store.run(theirs)).acquire():
        queue.ended(theirs.name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
        assert taken(queue) == []
        assert not queue.finished  # its own run may be tried again
        for _ in range(2):
            queue.ended(mine.name, JobOutcome(JobState.DIED, "gone"))
            assert not queue.finished
            clock.now += LONGEST
            assert taken(queue) == ["run 0"]
        queue.ended(mine.name, JobOutcome(JobState.DONE))
        assert taken(queue) == []
        assert queue.finished
        assert queue.left == {theirs.name, after(theirs).name}
        assert queue.failed == {}
        again, _, _ = make(store, theirs, after(theirs), leave_others=True)
        assert taken(again) == ["run 0"]
        again.ended(theirs.name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
        run_dir.complete(run_result())
    assert taken(again) == ["run 1"]  # the last look found what it needs
    assert not again.finished


def test_what_others_gave_up_is_not_left_to_them(store: Store) -> None:
    queue, _, _ = make(store, spec(0), spec(1), leave_others=True)
    assert taken(queue) == ["run 0", "run 1"]
    with store.run(spec(0)).acquire():
        for number in range(2):
            queue.ended(spec(number).name, JobOutcome(JobState.LEASED_ELSEWHERE, "another one does it"))
        assert taken(queue) == ["run 1"]
        assert not queue.finished
        queue.ended(spec(1).name, JobOutcome(JobState.DONE))
        assert taken(queue) == []
        assert (queue.finished, queue.left) == (True, {spec(0).name})


def test_a_run_that_left_its_node_goes_on_at_once_and_one_that_a_scheduler_ended_does_not(store: Store) -> None:
    queue, told, _ = make(store, spec(0), spec(1), after(spec(1)))
    assert taken(queue) == ["run 0", "run 1"]
    queue.ended(spec(0).name, JobOutcome(JobState.RETURNED, "its node is about to go"))
    assert taken(queue) == ["run 0"]
    assert told.waits == [("run 0", "its node is about to go", None)]
    queue.ended(spec(1).name, JobOutcome(JobState.EARLY_STOPPED, "ended early"))
    assert told.settled == [("run 1", "ended early")]
    assert list(queue.failed) == [after(spec(1)).name]


def test_no_process_is_kept_that_the_workers_of_a_run_may_wait_for(tmp_path: Path) -> None:
    """Of two runs of several workers, one is executed and one has no room: a free process has nothing to do."""
    jobs = [Job(str(seed), spec(seed), TWO) for seed in (1, 2)]
    queue = Queue(jobs, StoredRuns(Store(tmp_path)), Told(), Room(most=1))
    assert not queue.resting
    assert [job.label for job in queue.take()] == ["1"]
    assert queue.resting
    assert queue.waiting
    queue.ended(spec(1).name, JobOutcome(JobState.DONE))
    assert not queue.resting


@pytest.mark.parametrize(("launch", "rests"), [(ONE, False), (TWO, True)])
def test_where_no_more_may_run_a_process_is_kept_for_the_next_run_alone(
    tmp_path: Path, launch: LaunchSpec, rests: bool
) -> None:
    jobs = [Job("first", spec(1), launch), Job("second", spec(2), ONE)]
    queue = Queue(jobs, StoredRuns(Store(tmp_path)), Told(), Room(), concurrency=1)
    assert [job.label for job in queue.take()] == ["first"]
    assert queue.resting is rests
