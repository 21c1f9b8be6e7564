"""What plans cost, and budgets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt_scale.launch.conditions import Conditions
from rt_scale.launch.plan_budget import check_budget, prices_for, refuse_over_budget
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store
from tests.unit.launch.planning import HOUR, every_run_takes, finish, go, sheet, sweeps


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _an_hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, HOUR)


def test_costs_are_machines_times_hours_and_spot_has_the_interruptions(store: Store) -> None:
    given = sweeps({"seeds": 8})
    prices = sheet({}, {"name": "b", "cpus": 1, "spot": None}, {"name": "gpu", "gpus": 1})
    first, second = go(given, store, cpus=2, prices=prices).costs
    assert (first.name, first.machines, first.on_demand, first.spot) == ("a", 1, 12.0, 4.0)
    assert (first.currency, first.known) == ("EUR", "a page, 2026-02-03")
    assert (second.machines, second.on_demand, second.spot) == (2, 24.0, None)
    plan = go(given, store, cpus=2, prices=prices, rate=1.0)
    assert plan.interrupted is not None
    assert plan.costs[0].on_demand == 12.0
    assert plan.costs[0].spot == pytest.approx(plan.interrupted.makespan / HOUR)


def test_a_budget_is_kept_or_refused(store: Store) -> None:
    given, prices = sweeps({"seeds": 8}), sheet({}, {"name": "dear", "on_demand": 30.0})
    check_budget(go(given, store, cpus=2, prices=prices), 12.0)
    with pytest.raises(InputError, match=r"above the budget of 11\.99 EUR.*12\.00 EUR, on 1 x a\. Nothing was started"):
        check_budget(go(given, store, cpus=2, prices=prices), 11.99)
    # Planned with interruptions, it is the price on spot machines that counts.
    check_budget(go(given, store, cpus=2, prices=prices, rate=0.01), 11.99)


def test_sweeps_about_to_start_are_planned_and_held_to_their_budget(store: Store, tmp_path: Path) -> None:
    given, conditions = sweeps({"seeds": 8}), Conditions(cpus=2, prices=sheet({}))
    told = refuse_over_budget(given, 12.0, store, tmp_path / "data", conditions)
    assert told == "Within the budget: 12.00 EUR by the plan, on 1 x a."
    with pytest.raises(InputError, match="above the budget of 11"):
        refuse_over_budget(given, 11.0, store, tmp_path / "data", conditions)
    for point in given[0][1][:4]:
        finish(store, point.spec)
    assert "6.00 EUR" in refuse_over_budget(given, 6.0, store, tmp_path / "data", conditions)
    for point in given[0][1][4:]:
        finish(store, point.spec)
    assert refuse_over_budget(given, 0.0, store, tmp_path / "data", conditions).startswith("Nothing is left")
    assert not (tmp_path / "data").exists()


def test_a_budget_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--budget needs prices"):
        prices_for(1.0, None)
    assert prices_for(None, None) is None
    file = tmp_path / "prices.yaml"
    file.write_text(json.dumps(sheet({"name": "mine"}).model_dump(mode="json")))
    assert [prices_for(budget, file) for budget in (None, 1.0)] == [sheet({"name": "mine"})] * 2


def test_several_workers_are_counted_in_hours_and_machines(store: Store) -> None:
    plan = go(
        sweeps({"seeds": 3, "launch": {"gpus": 1, "workers": 4}}), store, gpus=8, prices=sheet({"gpus": 4, "cpus": 8})
    )
    assert plan.gpu_hours == 3 * 4
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 2 * HOUR
    assert [(cost.machines, cost.on_demand) for cost in plan.costs] == [(2, 2 * 2 * 3.0)]


def test_a_budget_that_cannot_be_compared_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No machine of the price sheet is for these runs"):
        check_budget(go(sweeps({}), store, prices=sheet({"gpus": 1})), 1e9)
    every_run_takes(monkeypatch, None)
    plan = go(sweeps({"seeds": 2}), store, prices=sheet({}))
    assert (plan.unknown, plan.undisturbed, plan.costs) == (2, None, [])
    with pytest.raises(InputError, match="2 of 2 runs have no estimate"):
        check_budget(plan, 1e9)
