"""What sweeps will take, put together: states, order, machines, money."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt_scale.plan import estimate as planned_module
from rt_scale.plan import plan as module
from rt_scale.plan.costs import check_budget
from rt_scale.plan.estimate import Estimator
from rt_scale.plan.plan import jobs_to_do
from rt_scale.scheduler.job import jobs_of
from rt_scale.scheduler.search import Search
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops
from rt_scale.system.machine import allowed_cores
from tests.unit.plan.estimating import fixed_rates
from tests.unit.plan.planning import BASE, HOUR, RESTART, every_run_takes, finish, go, sheet, sweeps
from tests.unit.scheduler.exploring import METRIC


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _an_hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, HOUR)


def test_several_files_are_one_queue_of_distinct_runs(store: Store) -> None:
    given = sweeps(store, {"seeds": 3, "launch": {"cpus": 2}}, {"seeds": 4})
    first = given[0].points
    finish(store, first[0].spec)
    failed = store.run(first[1].spec)
    with failed.acquire():
        failed.fail({"reason": "nan"})
    plan = go(given, cpus=2)
    assert plan.runs == {"done": 1, "failed": 1, "missing": 2}
    assert (plan.nodes, plan.to_compute) == (4, 3)
    # Two of the three belong to the first file, with its two cores.
    assert plan.core_hours == 2 + 2 + 1
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 3 * HOUR


def test_runs_to_start_from_are_there_once_and_first(store: Store) -> None:
    given = sweeps(store, RESTART, RESTART)
    jobs = jobs_of(given)
    assert [name in jobs for name in jobs_to_do(jobs.values(), store)] == [False, True, False, True]
    plan = go(given, cpus=8)
    assert (plan.runs, plan.nodes, plan.to_compute) == ({"missing": 2}, 4, 4)
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 2 * HOUR


def test_what_a_finished_run_started_from_is_not_computed(store: Store) -> None:
    given = sweeps(store, RESTART)
    finish(store, given[0].points[0].spec)
    plan = go(given)
    assert (plan.nodes, plan.to_compute, plan.runs) == (4, 2, {"done": 1, "missing": 1})


def test_the_newest_checkpoint_of_a_partial_run_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sweeps(store, {})
    run_dir = store.run(given[0].points[0].spec)
    with run_dir.acquire():
        run_dir.write_spec(given[0].points[0].spec)
        for step in (0, 6):
            run_dir.save_checkpoint(step, lambda folder: (folder / "weights").touch())
    monkeypatch.setattr(planned_module, "Estimator", Estimator)
    monkeypatch.setattr(planned_module, "measured_rates", fixed_rates)
    (group,) = go(given).groups
    assert group.seconds is not None
    assert group.left == pytest.approx(group.seconds / 2)  # 6 of 12 steps


def test_runs_that_a_rule_ended_are_not_gone_on_with(store: Store) -> None:
    explore = {"metric": METRIC, "mode": "max", "stop": {"asha": {"grace": "1ep"}}}
    given = sweeps(store, {"base": {**BASE, "probe": {"every": "1ep"}}, "explore": explore, "seeds": 3})
    assert given[0].spec.explore is not None
    stop = EarlyStop("asha", 6, 1.0, "ep", METRIC, 0.1)
    EarlyStops(given[0].spec.explore, given[0].folder).record(given[0].points[1].spec.name, stop)
    plan = go(given)
    assert (plan.nodes, plan.ended, plan.to_compute, plan.runs) == (3, 1, 2, {"missing": 3})


def test_of_a_search_what_it_sampled_is_planned_and_the_rest_is_told(store: Store) -> None:
    explore = {"metric": METRIC, "mode": "max", "search": {"optuna": {"runs": 5}}, "space": {"student.alpha": [0.2, 1]}}
    given = sweeps(store, {"explore": explore})
    plan = go(given)
    assert (plan.nodes, plan.to_compute, plan.to_sample) == (0, 0, 2)  # the space has no more
    assert Search(given[0]).next() is not None
    plan = go(given)
    assert (plan.nodes, plan.to_compute, plan.to_sample) == (1, 1, 1)


def test_nothing_left_needs_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sweeps(store, {})
    finish(store, given[0].points[0].spec)
    monkeypatch.delattr(planned_module, "Estimator")
    plan = go(given, prices=sheet({}))
    assert (plan.to_compute, plan.undisturbed, plan.costs, plan.groups) == (0, None, [], [])
    check_budget(plan, 0)


def test_slots_are_those_here_unless_said(store: Store) -> None:
    assert go(sweeps(store, {})).capacity == {"cpu": allowed_cores()}
    assert go(sweeps(store, {}), cpus=3).capacity == {"cpu": 3}
    on_gpus = sweeps(store, {"launch": {"gpus": 0.5}, "seeds": 4})
    assert go(on_gpus).capacity["gpu"] >= 1
    plan = go(on_gpus, gpus=2)
    assert (plan.capacity, plan.gpu_hours, plan.core_hours) == ({"gpu": 2}, 2, 0)
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == HOUR


def test_gpus_for_a_sweep_that_asks_for_none_are_one_a_run(store: Store) -> None:
    plan = go(sweeps(store, {"seeds": 3}), gpus=2)
    assert (plan.capacity, plan.gpu_hours) == ({"gpu": 2}, 3)


def test_interruptions_take_longer_and_are_the_same_each_time(store: Store) -> None:
    given = sweeps(store, {"seeds": 8})
    plan, again, calm = (go(given, cpus=2, rate=rate) for rate in (1.0, 1.0, 0.0))
    assert plan == again
    assert (calm.interrupted, calm.slowest) == (None, None)
    assert plan.interrupted is not None
    assert plan.undisturbed is not None
    assert plan.interrupted.interruptions > 0
    assert plan.slowest is not None
    assert plan.slowest > plan.interrupted.makespan
    assert plan.interrupted.makespan > plan.undisturbed.makespan == 4 * HOUR


def test_runs_that_a_sweep_would_give_up_are_told(store: Store) -> None:
    """Interruptions cost no tries, but there is a bound to those without a checkpoint in between."""
    often, seldom = (
        go(sweeps(store, {"seeds": 8, "launch": {"retries": 0}}), cpus=2, rate=rate) for rate in (25.0, 1.0)
    )
    assert often.interrupted is not None
    assert seldom.interrupted is not None
    assert (often.interrupted.given_up > 0, seldom.interrupted.given_up) == (True, 0)


def test_an_assumed_device_reaches_the_estimates(store: Store) -> None:
    assert go(sweeps(store, {}), teraflops=60.0).groups[0].how == "fixed 60.0"


def test_groups_say_what_they_are(store: Store) -> None:
    plan = go(sweeps(store, {"axes": {"projector.out_dim": [16, 1024]}, "seeds": 2}))
    assert [(group.what, group.runs, group.seconds, group.left) for group in plan.groups] == [
        ("convnet_8_2, digits, 16 outputs, 2 epochs", 2, HOUR, 2 * HOUR),
        ("convnet_8_2, digits, 1,024 outputs, 2 epochs", 2, HOUR, 2 * HOUR),
    ]
    json.dumps(plan.to_json())


def test_unprepared_sets_are_told(store: Store) -> None:
    noise = {"name": "gaussian", "size": 8, "samples": 64, "channels": 1}
    plan = go(sweeps(store, {"base": {**BASE, "data": noise, "probe": {"also": ["mnist"]}}}))
    assert plan.missing_data == {"mnist": f"rt-scale data prepare mnist --data-dir {store.root.parent / 'data'}"}


def test_draws_are_odd_so_that_one_is_in_the_middle() -> None:
    assert module.DRAWS % 2 == 1
