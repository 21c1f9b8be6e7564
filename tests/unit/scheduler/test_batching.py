"""Which runs of a queue go into one process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.queue import DEATHS, MOST, Queue, StoredRuns
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize
from rt_scale.store.store import Store
from tests.unit.scheduler.test_queue import Clock, Room, Told, after, spec

FOUR, AUTO = LaunchSpec(pack=4), LaunchSpec(pack="auto")


def queue_of(
    folder: Path, specs: Sequence[RunSpec], launch: LaunchSpec = FOUR, *, slots: int = 1, **more: Any
) -> tuple[Queue, Clock]:
    clock = Clock()
    tasks = [Job(f"run {number}", each, launch) for number, each in enumerate(specs)]
    queue = Queue(tasks, StoredRuns(Store(folder)), Told(), Room(slots), clock=clock, **more)
    return queue, clock


def taken(queue: Queue) -> list[list[str]]:
    """The labels of all batches that there are now."""
    found = []
    while tasks := queue.take():
        found.append([task.label.removeprefix("run ") for task in tasks])
    return found


def seeds(count: int) -> list[RunSpec]:
    return [spec(seed) for seed in range(count)]


def test_runs_are_packed_in_their_order_up_to_the_number_asked_for(tmp_path: Path) -> None:
    queue, _ = queue_of(tmp_path, seeds(6))
    assert taken(queue) == [["0", "1", "2", "3"], ["4", "5"]]
    assert len(queue.live) == 6


def test_without_packing_each_is_taken_by_itself(tmp_path: Path) -> None:
    queue, _ = queue_of(tmp_path, seeds(3), LaunchSpec())
    assert taken(queue) == [["0"], ["1"], ["2"]]


def test_only_runs_of_one_shape_and_launch_section_go_together(tmp_path: Path) -> None:
    wide = [spec(seed, projector={"out_dim": 128}) for seed in range(2)]
    same = spec(5, student={"alpha": 0})
    queue, _ = queue_of(tmp_path, [spec(0), wide[0], same, spec(1), wide[1], spec(2)])
    queue.add(Job("elsewhere", spec(3), AUTO))
    assert taken(queue) == [["0", "3", "5"], ["1", "4"], ["2"], ["elsewhere"]]


def test_they_are_shared_out_evenly_among_the_processes_that_are_free(tmp_path: Path) -> None:
    eight = LaunchSpec(pack=8)
    queue, _ = queue_of(tmp_path, seeds(7), eight, slots=2)
    assert taken(queue) == [["0", "1", "2", "3"], ["4", "5", "6"]]
    queue, _ = queue_of(tmp_path, seeds(7), eight, slots=3)
    queue.take()
    queue.ended(spec(0).name, JobOutcome(JobState.DONE))  # its pack goes on without it
    assert taken(queue) == [["3", "4"], ["5", "6"]]


def test_packed_runs_count_one_by_one_where_their_number_is_limited(tmp_path: Path) -> None:
    queue, _ = queue_of(tmp_path, seeds(6), concurrency=3)
    assert taken(queue) == [["0", "1", "2"]]
    queue.ended(spec(1).name, JobOutcome(JobState.DONE))
    assert taken(queue) == [["3"]]


def test_the_runs_at_a_time_are_shared_out_among_free_processes(tmp_path: Path) -> None:
    eight = LaunchSpec(pack=8)
    assert taken(queue_of(tmp_path, seeds(8), eight, slots=2, concurrency=4)[0]) == [["0", "1"], ["2", "3"]]
    assert taken(queue_of(tmp_path, seeds(8), eight, slots=4, concurrency=2)[0]) == [["0"], ["1"]]


def test_what_was_measured_for_a_shape_is_the_size_from_then_on(tmp_path: Path) -> None:
    queue, _ = queue_of(tmp_path, seeds(2 * MOST), AUTO)
    first = queue.take()
    assert len(first) == MOST
    assert queue.known(first[0]) is None
    queue.learn(first[0], BatchSize(size=3))
    assert queue.known(first[-1]) == BatchSize(size=3)
    for task in first[3:]:
        queue.ended(task.spec.name, JobOutcome(JobState.RETURNED))
    assert [task.label for task in queue.take()] == ["run 3", "run 4", "run 5"]
    queue.learn(first[0], BatchSize(size=1))
    assert [task.label for task in queue.take()] == ["run 6"]


def test_dependents_wait_for_their_own_start_alone(tmp_path: Path) -> None:
    starts = seeds(2)
    queue, _ = queue_of(tmp_path, [*starts, *(after(start, seed=9) for start in starts)])
    assert taken(queue) == [["0", "1"]]
    queue.ended(starts[1].name, JobOutcome(JobState.DONE))
    assert taken(queue) == [["3"]]


def test_a_run_whose_process_died_again_and_again_is_tried_alone(tmp_path: Path) -> None:
    queue, clock = queue_of(tmp_path, seeds(3))
    for _ in range(DEATHS):
        clock.now += 100
        assert taken(queue) == [["0", "1", "2"]]
        for each in seeds(3):
            queue.ended(each.name, JobOutcome(JobState.DIED, "its process died"))
    clock.now += 100
    assert taken(queue) == [["0"], ["1"], ["2"]]


@pytest.mark.parametrize(("pack", "workers"), [("auto", 2), (3, 4)])
def test_runs_of_several_workers_are_not_packed(pack: Any, workers: int) -> None:
    with pytest.raises(ValueError, match="1 worker"):
        LaunchSpec(pack=pack, workers=workers)
    assert LaunchSpec(pack=1, workers=workers).workers == workers
