"""How long a queue takes, against schedules that can be done by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from rt_scale.plan.estimate import Estimate
from rt_scale.plan.simulation import HOPELESS, Capacity, Schedule, Unit, simulate
from rt_scale.scheduler.job import Job
from rt_scale.scheduler.queue import LOSSES
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}}


class Task(NamedTuple):
    """A run that takes so long, and starts from those of other tasks."""

    name: str
    seconds: float
    units: float = 1.0
    kind: Unit = "gpu"
    after: tuple[str, ...] = ()
    checkpoint: float = math.inf
    pack: int = 1


task = Task


def spec_of(name: str, after: Sequence[RunSpec] = ()) -> RunSpec:
    roles = zip(("teacher", "student"), after, strict=False)
    starts = {role: {"start_from": {"run": run.model_dump(mode="json")}} for role, run in roles}
    return RunSpec.model_validate({**BASE, **starts, "seeds": {"data": int.from_bytes(name.encode()[:6])}})


def work_off(tasks: Sequence[Task], capacity: dict[Unit, float], **more: Any) -> Schedule:
    specs: dict[str, RunSpec] = {}
    jobs = {}
    for each in tasks:
        spec = specs[each.name] = spec_of(each.name, [specs.get(name) or spec_of(name) for name in each.after])
        asked = {"gpus": each.units} if each.kind == "gpu" else {"cpus": int(each.units)}
        jobs[spec.name] = Job(each.name, spec, LaunchSpec.model_validate({**asked, "pack": each.pack}))
    by_name = {specs[each.name].name: each for each in tasks}

    def estimate(job: Job, together: int) -> Estimate:
        found = by_name[job.name]
        return Estimate(found.seconds, found.seconds, found.checkpoint, "")

    return simulate(jobs, estimate, Capacity(capacity), **more)


class Draws:
    """Stands in for a generator: hands out seconds until the next interruption."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.scales: list[float] = []

    def exponential(self, scale: float) -> float:
        self.scales.append(scale)
        return self.seconds.pop(0) if self.seconds else math.inf


def makespan(*tasks: Task, gpus: float = 1, cpus: float = 1, **more: Any) -> float:
    return work_off(tasks, {"gpu": gpus, "cpu": cpus}, **more).outcome.makespan


@pytest.mark.parametrize(("gpus", "expected"), [(1, 12), (2, 7), (3, 5), (8, 5)])
def test_runs_fill_the_slots_in_their_order(gpus: int, expected: float) -> None:
    # On two slots: a until 5, b until 4, then c until 7.
    tasks = [task("a", 5), task("b", 4), task("c", 3)]
    assert makespan(*tasks, gpus=gpus) == expected


def test_a_run_waits_for_what_it_starts_from_and_others_pass_it() -> None:
    tasks = [task("a", 5), task("b", 1, after=("a",)), task("c", 2)]
    assert makespan(*tasks, gpus=2) == 6
    assert makespan(task("b", 1, after=("done long ago",))) == 1


def test_fractions_share_a_gpu() -> None:
    assert makespan(*(task(str(number), 2, 1 / 3) for number in range(6))) == pytest.approx(4)
    # In floating point 1 - 0.8 is a little less than 0.2.
    assert makespan(task("a", 2, 0.8), task("b", 2, 0.2)) == 2


def test_the_order_holds_between_runs_that_ask_for_different_amounts() -> None:
    assert makespan(task("a", 3, 2), task("b", 5, 1), task("c", 10, 1, after=("a",)), gpus=2) == 13


def test_what_does_not_fit_lets_smaller_ones_pass() -> None:
    assert makespan(task("a", 4, 1), task("b", 1, 2), task("c", 3, 1), gpus=2) == 5


def test_gpus_and_cores_are_apart() -> None:
    tasks = [task("a", 3), task("b", 4, 2, kind="cpu"), task("c", 5, 2, kind="cpu")]
    assert makespan(*tasks, gpus=1, cpus=2) == 9
    assert makespan(*tasks, gpus=1, cpus=4) == 5


def test_an_interrupted_run_loses_what_came_after_its_last_checkpoint() -> None:
    draws: Any = Draws(35.0)
    found = work_off([task("a", 100, checkpoint=10)], {"gpu": 1}, rate=2, generator=draws, replacement=60).outcome
    # 30 of 35 seconds are kept; 60 seconds later it goes on with the other 70.
    assert (found.makespan, found.interruptions, found.lost) == (35 + 60 + 70, 1, 5)
    assert draws.scales == [1800.0, 1800.0]


def test_without_a_checkpoint_it_starts_again() -> None:
    draws: Any = Draws(35.0)
    found = work_off([task("a", 100)], {"gpu": 1}, rate=1, generator=draws, replacement=0).outcome
    assert (found.makespan, found.lost) == (135, 35)


def test_an_interrupted_run_is_first_on_the_next_free_slot() -> None:
    draws: Any = Draws(5.0, math.inf)
    tasks = [task("a", 10, checkpoint=1), task("b", 6), task("c", 100)]
    found = work_off(tasks, {"gpu": 2}, rate=1, generator=draws, replacement=50).outcome
    # a: 0-5, then 6-11 where b was; c from 11 on.
    assert found.makespan == 111


def test_interruptions_are_those_of_the_generator_and_cost_what_theory_says() -> None:
    tasks = [task(str(number), 3600, checkpoint=900) for number in range(400)]

    def run(seed: int) -> Any:
        generator = np.random.default_rng(seed)
        return work_off(tasks, {"gpu": 400}, rate=1, generator=generator, replacement=0).outcome

    assert run(0) == run(0)
    assert run(0) != run(1)
    # A segment of length s that is begun again until it is through is interrupted exp(rate s) - 1 times.
    expected = 400 * 4 * (math.exp(0.25) - 1)
    assert run(0).interruptions == pytest.approx(expected, rel=0.15)


def test_what_never_fits_is_refused() -> None:
    with pytest.raises(InputError, match=r"asks for 2 GPUs, but the plan is for 1\. Plan for at least 2 \(.*--gpus\)"):
        makespan(task("a", 1, 2))
    with pytest.raises(InputError, match=r"asks for 4 CPU cores.*at least 4 \(.*--cpus\).*launch\.cpus"):
        makespan(task("a", 1, 4, kind="cpu"))


def test_a_rate_at_which_no_run_ends_is_refused() -> None:
    generator = np.random.default_rng(0)
    slow, rate = task("a", 7200, checkpoint=3600), HOPELESS * 1.01
    with pytest.raises(InputError, match="practically never end"):
        makespan(slow, rate=rate, generator=generator)
    assert makespan(task("a", 7200, checkpoint=360), rate=rate, generator=generator) > 7200
    with pytest.raises(ValueError, match="generator"):
        makespan(slow, rate=1)


def test_runs_at_a_time_are_counted_in_packs_too() -> None:
    tasks = [task(name, 4, pack=3) for name in "abcdef"]
    # Two processes of three runs each, that take as long as those one after the other.
    assert makespan(*tasks, gpus=2) == 12
    # Four of them at once: two and two, then the other two where the first are done.
    assert makespan(*tasks, gpus=2, concurrency=4) == 16
    assert makespan(*tasks, gpus=2, concurrency=1) == 24
    assert makespan(task("a", 3), task("b", 3), gpus=2, concurrency=1) == 6


def test_what_each_process_trained_and_occupied_is_known() -> None:
    tasks = [task("a", 4, 0.5), *(task(name, 4, 0.5, pack=4) for name in "bcd")]
    schedule = work_off(tasks, {"gpu": 1})
    assert sorted(schedule.together.values()) == [1, 1, 2, 2]
    assert (schedule.processes, schedule.work) == (3, {"gpu": 8.0})


def test_the_most_in_use_at_once_is_known() -> None:
    machines = Capacity({"gpu": 8, "cpu": 3})
    machines.occupy(LaunchSpec(gpus=0.5), 0.0)
    machines.occupy(LaunchSpec(gpus=2), 0.0)
    machines.free(LaunchSpec(gpus=0.5), (), 1.0)
    assert machines.peak == {"gpu": 2.5, "cpu": 0.0}


def test_a_run_that_never_gets_to_a_checkpoint_is_given_up_as_a_sweep_gives_it_up() -> None:
    draws: Any = Draws(5.0, math.inf, *[5.0] * (LOSSES - 1))
    tasks = [task("a", 10), task("b", 1, after=("a",)), task("c", 1)]
    found = work_off(tasks, {"gpu": 3}, rate=1, generator=draws, replacement=0).outcome
    assert (found.given_up, found.interruptions) == (2, LOSSES)


def test_an_interrupted_run_does_not_count_among_those_at_a_time() -> None:
    draws: Any = Draws(5.0)
    # The first goes on at once, from its start, on the other GPU; then the second.
    found = work_off(
        [task("a", 10), task("b", 10)], {"gpu": 2}, concurrency=1, rate=1, generator=draws, replacement=60
    ).outcome
    assert found.makespan == 5 + 10 + 10


def test_an_empty_queue_takes_no_time() -> None:
    assert makespan() == 0


def test_a_long_queue_is_quickly_done() -> None:
    tasks = [task(str(number), 1, 1 + number % 2, kind="gpu" if number % 3 else "cpu") for number in range(5_000)]
    assert makespan(*tasks, gpus=8, cpus=8) > 500
