"""Packed runs in a plan: the processes that a sweep will make of them, and how long those take."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.store.store import Store
from tests.unit.plan.planning import HOUR, RESTART, every_run_takes, go, sheet, sweeps

ALPHAS = {"axes": {"student.alpha": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]}}
"""Six runs, of which the first must train alone."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _an_hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, HOUR)


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
    # Two slots: the first run has one, so that all others are for the other one.
    assert (plan.processes, plan.undisturbed.makespan) == (2, 5 * HOUR)
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


@pytest.mark.parametrize(("most", "processes", "hours"), [(1, 6, 6), (2, 6, 3), (None, 4, 2)])
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
    every_run_takes(monkeypatch, HOUR, best_size=4)
    plan = go(given, cpus=1)
    assert (plan.processes, plan.packed, plan.undecided) == (3, 4, 0)
    every_run_takes(monkeypatch, HOUR, best_size=1)
    plan = go(given, cpus=1)
    assert (plan.processes, plan.undecided) == (6, 0)


def test_packs_without_an_estimate_are_in_no_sum(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, None)
    plan = go(sweeps(store, {**ALPHAS, "launch": {"pack": 2}}))
    assert (plan.unknown, plan.undisturbed) == (6, None)
