"""Packed runs in a plan: the processes that a sweep will make of them, and how long those take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.plan.batches import by_process
from rt_scale.plan.queue import Node
from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from tests.unit.plan.planning import BASE, HOUR, RESTART, every_run_takes, go, sheet, sweeps
from tests.unit.scheduler.test_queue import Room, Told

FOUR = LaunchSpec(pack=4)
ALPHAS = {"axes": {"student.alpha": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}}
"""Six runs, of which the first must train alone."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _an_hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, HOUR)


def spec(seed: int, **sections: Any) -> RunSpec:
    return RunSpec.model_validate({**BASE, "seeds": {"student": seed}, **sections})


def node(run: RunSpec, launch: LaunchSpec = FOUR) -> Node:
    return Node(run, launch, True, "missing", True, 0)


def shared(nodes: list[Node], most: int = 4, slots: int = 1) -> list[list[int]]:
    """Positions of runs by process."""
    processes = by_process(nodes, lambda first: most, lambda launch: slots)
    return [[nodes.index(each) for each in process] for process in processes]


def test_runs_of_one_shape_and_launch_section_share_a_process() -> None:
    nodes = [node(spec(seed)) for seed in range(6)]
    assert shared(nodes) == [[0, 1, 2, 3], [4, 5]]
    assert shared(nodes, most=8) == [[0, 1, 2, 3, 4, 5]]
    wide = node(spec(9, projector={"out_dim": 16}))
    assert shared([nodes[0], wide, nodes[1]]) == [[0, 2], [1]]
    assert shared([nodes[0], node(spec(1), LaunchSpec(pack=2)), nodes[2]]) == [[0, 2], [1]]
    assert shared([node(spec(seed), LaunchSpec()) for seed in range(3)]) == [[0], [1], [2]]


def test_what_must_train_alone_does() -> None:
    nodes = [node(spec(0)), node(spec(1, student={"alpha": 0})), node(spec(2))]
    assert shared(nodes) == [[0, 2], [1]]


def test_a_run_is_never_with_one_that_it_starts_from() -> None:
    first = spec(0)
    second = spec(0, teacher={"start_from": {"run": first.model_dump(mode="json")}})
    assert shared([node(first), node(second), node(spec(1))]) == [[0, 2], [1]]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12, 30])
@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("most", [2, 4, 16])
def test_processes_are_those_that_a_sweep_hands_out(tmp_path: Path, count: int, slots: int, most: int) -> None:
    launch = LaunchSpec(pack=most)
    specs = [spec(seed) for seed in range(count)]
    tasks = [Job(str(number), each, launch) for number, each in enumerate(specs)]
    queue = Queue(tasks, StoredRuns(Store(tmp_path)), Told(), Room(slots))
    running: list[list[Job]] = []
    handed_out: list[list[int]] = []
    while not queue.finished:
        while len(running) < slots and (pack := queue.take()):
            running.append(pack)
            handed_out.append([int(task.label) for task in pack])
        for task in running.pop(0):
            queue.ended(task.spec.name, JobOutcome(JobState.DONE))
    assert shared([node(each, launch) for each in specs], most, slots) == handed_out


def test_a_pack_is_one_process_that_takes_as_long_as_its_runs(store: Store) -> None:
    plan = go(sweeps(store, {**ALPHAS, "launch": {"pack": 8, "cpus": 2}}), cpus=2, prices=sheet({}))
    assert (plan.to_compute, plan.processes, plan.packed, plan.undecided, plan.unknown) == (6, 2, 5, 0, 0)
    # On one slot: the first run, then the five others, which hold two cores together.
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 6 * HOUR
    assert plan.core_hours == 6 * 2
    assert plan.costs[0].on_demand == 6 * 3.0


def test_packs_are_shared_out_over_what_there_is(store: Store) -> None:
    given = sweeps(store, {**ALPHAS, "launch": {"pack": 8, "gpus": 0.5}})
    plan = go(given, gpus=1)
    assert plan.undisturbed is not None
    # Two slots: the run alone and three others at once, then the two that are left.
    assert (plan.processes, plan.undisturbed.makespan) == (3, 3 * HOUR)
    assert go(given, gpus=3).processes == 6


def test_a_pack_waits_for_what_any_of_it_starts_from(store: Store) -> None:
    plan = go(sweeps(store, {**RESTART, "launch": {"pack": 2}}), cpus=1)
    assert (plan.processes, plan.packed) == (2, 4)
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 4 * HOUR


def test_an_interrupted_pack_loses_what_all_of_it_did(store: Store) -> None:
    given = {"seeds": 4, "launch": {"pack": 4}}
    packed, alone = (go(sweeps(store, {**given, "launch": launch}), cpus=1, rate=0.5)
                     for launch in ({"pack": 4}, {}))  # fmt: skip
    assert packed.interrupted is not None
    assert alone.interrupted is not None
    assert packed.interrupted.lost > alone.interrupted.lost


@pytest.mark.parametrize(("most", "processes", "hours"), [(1, 6, 6), (2, 5, 4), (None, 5, 2)])
def test_runs_at_a_time_count_every_run_of_a_pack(store: Store, most: int | None, processes: int, hours: int) -> None:
    plan = go(sweeps(store, {**ALPHAS, "launch": {"pack": 2}}), cpus=4, concurrency=most)
    assert plan.undisturbed is not None
    assert (plan.processes, plan.undisturbed.makespan) == (processes, hours * HOUR)


def test_runs_at_a_time_are_as_many_where_they_are_interrupted(store: Store) -> None:
    plan = go(sweeps(store, ALPHAS), cpus=4, concurrency=1, rate=0.01)
    assert plan.interrupted is not None
    assert plan.interrupted.makespan >= 6 * HOUR


def test_what_will_be_measured_is_counted_as_runs_alone_or_as_it_was(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = sweeps(store, {**ALPHAS, "launch": {"pack": "auto"}})
    plan = go(given, cpus=1)
    assert (plan.processes, plan.packed, plan.undecided) == (6, 0, 5)
    every_run_takes(monkeypatch, HOUR, best_pack=4)
    plan = go(given, cpus=1)
    assert (plan.processes, plan.packed, plan.undecided) == (3, 4, 0)
    every_run_takes(monkeypatch, HOUR, best_pack=1)
    plan = go(given, cpus=1)
    assert (plan.processes, plan.undecided) == (6, 0)


def test_packs_without_an_estimate_are_in_no_sum(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, None)
    plan = go(sweeps(store, {**ALPHAS, "launch": {"pack": 2}}))
    assert (plan.unknown, plan.undisturbed) == (6, None)


def test_exploring_is_refused_as_a_sweep_refuses_it(store: Store) -> None:
    explore = {"metric": "probe/student/linear", "mode": "max", "stop": {"asha": {"grace": "1ep", "reduction": 2}}}
    base = {**BASE, "probe": {"every": "1ep"}}
    with pytest.raises(InputError, match=r"cannot be packed\. Leave launch\.pack at 1"):
        go(sweeps(store, {"base": base, "explore": explore, "launch": {"pack": 2}}))
    assert go(sweeps(store, {"base": base, "explore": explore})).core_hours == 1
