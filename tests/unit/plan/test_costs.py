"""Price sheets as users edit them, what plans cost, and budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.util.accelerators import accelerators

from rt_scale.plan.costs import Price, check_budget, load_prices, prices_for
from rt_scale.plan.plan import Conditions, conditions_of, refuse_over_budget
from rt_scale.ray_backend import cluster
from rt_scale.scheduler.job import Where
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from rt_scale.system.console import amount_text
from tests.unit.plan.planning import HOUR, every_run_takes, finish, go, sheet, sweeps
from tests.unit.scheduler.exploring import METRIC


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _an_hour_each(monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, HOUR)


def test_costs_are_machines_times_hours_and_spot_has_the_interruptions(store: Store) -> None:
    given = sweeps(store, {"seeds": 8})
    prices = sheet({}, {"name": "b", "cpus": 1, "spot": None}, {"name": "gpu", "gpus": 1})
    first, second = go(given, cpus=2, prices=prices).costs
    assert (first.name, first.machines, first.on_demand, first.spot) == ("a", 1, 12.0, 4.0)
    assert (first.currency, first.known) == ("EUR", "a page, 2026-02-03")
    assert (second.machines, second.on_demand, second.spot) == (2, 24.0, None)
    plan = go(given, cpus=2, prices=prices, rate=1.0)
    assert plan.interrupted is not None
    assert plan.costs[0].on_demand == 12.0
    assert plan.costs[0].spot == pytest.approx(plan.interrupted.makespan / HOUR)


def test_a_budget_is_kept_or_refused(store: Store) -> None:
    given, prices = sweeps(store, {"seeds": 8}), sheet({}, {"name": "dear", "on_demand": 30.0})
    check_budget(go(given, cpus=2, prices=prices), 12.0)
    with pytest.raises(InputError, match=r"above the budget of 11\.99 EUR.*12\.00 EUR, on 1 x a\. Nothing was started"):
        check_budget(go(given, cpus=2, prices=prices), 11.99)
    # Planned with interruptions, it is the price on spot machines that counts.
    check_budget(go(given, cpus=2, prices=prices, rate=0.01), 11.99)


def test_an_unknown_price_is_told_and_keeps_no_budget(store: Store) -> None:
    given = sweeps(store, {"seeds": 8})
    unknown, known = {"on_demand": None, "spot": 1.0}, {"name": "b"}
    plan = go(given, cpus=2, prices=sheet(unknown, known))
    assert [(cost.on_demand, cost.spot) for cost in plan.costs] == [(None, 4.0), (12.0, 4.0)]
    least = check_budget(plan, 12.0)
    assert least is not None
    assert least.cost.name == "b"
    with pytest.raises(InputError, match="has a price"):
        check_budget(go(given, cpus=2, prices=sheet(unknown)), 12.0)
    check_budget(go(given, cpus=2, prices=sheet(unknown), rate=0.01), 12.0)


def test_machines_with_other_gpus_cost_nothing_here(store: Store) -> None:
    launch = {"gpus": 1, "accelerator": "H100"}
    rows = [{"name": name, "gpus": 1, "accelerator": kind} for name, kind in (("a", "H100"), ("b", "T4"), ("c", None))]
    made = go(sweeps(store, {"seeds": 8, "launch": launch}), gpus=2, prices=sheet(*rows))
    assert [cost.name for cost in made.costs] == ["a", "c"]
    exact = [{"name": name, "gpus": 1, "accelerator": name} for name in ("A100", "A100-40G", "A100-80G")]
    for asked, names in (("A100", ["A100", "A100-40G", "A100-80G"]), ("A100-80G", ["A100-80G"])):
        given = sweeps(store, {"seeds": 8, "launch": {"gpus": 1, "accelerator": asked}})
        assert [cost.name for cost in go(given, gpus=2, prices=sheet(*exact)).costs] == names
    made = go(sweeps(store, {"seeds": 8, "launch": {"gpus": 1}}), gpus=2, prices=sheet(*rows))
    assert [cost.name for cost in made.costs] == ["a", "b", "c"]


def test_the_sheet_that_comes_with_rt_scale_was_looked_up() -> None:
    rows = load_prices(Path(__file__).parents[3] / "cluster" / "prices.yaml").prices
    assert len({(row.provider, row.name) for row in rows}) == len(rows)
    for row in rows:
        assert row.source.startswith("https://github.com/skypilot-org/skypilot-catalog/blob/")
        assert row.provider in row.source
        assert row.region
        assert row.memory
        assert row.on_demand is None or row.spot is None or row.spot < row.on_demand
        assert (row.accelerator is None) == (row.gpus == 0)
        assert row.accelerator is None or row.accelerator in vars(accelerators).values()


def test_sweeps_about_to_start_are_planned_and_held_to_their_budget(store: Store, tmp_path: Path) -> None:
    given, conditions = sweeps(store, {"seeds": 8}), Conditions(cpus=2, prices=sheet({}))
    told = refuse_over_budget(given, 12.0, tmp_path / "data", conditions)
    assert told == "Within the budget: 12.00 EUR by the plan, on 1 x a."
    with pytest.raises(InputError, match="above the budget of 11"):
        refuse_over_budget(given, 11.0, tmp_path / "data", conditions)
    for point in given[0].points[:4]:
        finish(store, point.spec)
    assert "6.00 EUR" in refuse_over_budget(given, 6.0, tmp_path / "data", conditions)
    for point in given[0].points[4:]:
        finish(store, point.spec)
    assert refuse_over_budget(given, 0.0, tmp_path / "data", conditions).startswith("Nothing is left")
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
        sweeps(store, {"seeds": 3, "launch": {"gpus": 1, "workers": 4}}), gpus=8, prices=sheet({"gpus": 4, "cpus": 8})
    )
    assert plan.gpu_hours == 3 * 4
    assert plan.undisturbed is not None
    assert plan.undisturbed.makespan == 2 * HOUR
    assert [(cost.machines, cost.on_demand) for cost in plan.costs] == [(2, 2 * 2 * 3.0)]


def test_a_budget_that_cannot_be_compared_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No machine of the price sheet is for these runs"):
        check_budget(go(sweeps(store, {}), prices=sheet({"gpus": 1})), 1e9)
    every_run_takes(monkeypatch, None)
    plan = go(sweeps(store, {"seeds": 2}), prices=sheet({}))
    assert (plan.unknown, plan.undisturbed, plan.costs) == (2, None, [])
    with pytest.raises(InputError, match="2 of 2 runs have no estimate"):
        check_budget(plan, 1e9)


def test_sums_that_differ_little_are_told_apart(store: Store) -> None:
    made = go(sweeps(store, {"seeds": 8}), cpus=2, prices=sheet({"on_demand": 0.0011}))
    with pytest.raises(InputError, match=r"above the budget of 0\.0043 EUR.* is 0\.0044 EUR"):
        check_budget(made, 0.0043)
    with pytest.raises(InputError, match=r"above the budget of 0\.00 EUR.* is 12\.00 EUR"):
        check_budget(go(sweeps(store, {"seeds": 8}), cpus=2, prices=sheet({})), 0)
    told = [amount_text(amount, "EUR") for amount in (0, 0.0044, 0.0999, 0.1, 1234.5)]
    assert told == ["0.00 EUR", "0.0044 EUR", "0.1 EUR", "0.10 EUR", "1,234.50 EUR"]


def test_runs_that_a_search_will_sample_have_no_budget(store: Store, tmp_path: Path) -> None:
    explore = {"metric": METRIC, "mode": "max", "search": {"optuna": {"runs": 4}}}
    explore["space"] = {"student.alpha": {"uniform": [0, 1]}}
    given, conditions = sweeps(store, {"explore": explore}), Conditions(prices=sheet({}))
    with pytest.raises(InputError, match="4 runs will be sampled as others end"):
        refuse_over_budget(given, 1e9, tmp_path / "data", conditions)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "auto", None])
def test_on_a_cluster_it_is_planned_for_what_that_has(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    asked: list[str | None] = []

    @contextmanager
    def connect(given: str | None, *, max_nodes: int | None) -> Iterator[cluster.Cluster]:
        asked.append(given)
        assert max_nodes is None
        yield cluster.Cluster("10.0.0.1:6379", local=True)

    nodes = [{"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 4}}] * 2
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "connect", connect)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    where = Where(store, tmp_path / "data", address=address, concurrency=7)
    found = conditions_of(where, [LaunchSpec(cpus=4)], sheet({}))
    alone = address is None
    assert (asked, found.there) == (([], None) if alone else ([address], {"gpu": 0, "cpu": 8}))
    assert (found.prices, found.concurrency) == (sheet({}), 7)
    if not alone:
        with pytest.raises(InputError, match="no node of this machine can ever give"):
            conditions_of(where, [LaunchSpec(), LaunchSpec(cpus=5)], sheet({}))
        told = refuse_over_budget(sweeps(store, {"seeds": 2}), 9.0, tmp_path / "data", found)
        assert told.endswith("1 x a (its cores and GPUs taken to be as fast as those here).")


def test_of_a_cluster_no_more_is_paid_than_runs_can_use(store: Store) -> None:
    given = sweeps(store, {"seeds": 3, "launch": {"cpus": 2}})
    plans = [go(given, there={"gpu": 0, "cpu": cores}, prices=sheet({})) for cores in (4, 64)]
    assert [(plan.capacity, plan.costs[0].machines) for plan in plans] == [({"cpu": 4}, 2), ({"cpu": 6}, 3)]
    on_gpus = sweeps(store, {"seeds": 3, "launch": {"gpus": 0.5}})
    assert go(on_gpus, there={"gpu": 8, "cpu": 64}).capacity == {"gpu": 2}
    assert go(given, there={"gpu": 0, "cpu": 4}, cpus=6).capacity == {"cpu": 6}


ROW: dict[str, Any] = {
    "name": "a", "gpus": 4, "cpus": 32, "on_demand": 8.0, "spot": 3.0, "currency": "EUR", "date": "2026-02-03",
    "source": "a page",
}  # fmt: skip


def written(tmp_path: Path, *changes: dict[str, Any]) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump({"prices": [{**ROW, **change} for change in changes]}))
    return path


def test_a_sheet_is_read_as_it_is_written(tmp_path: Path) -> None:
    first, second = load_prices(written(tmp_path, {}, {"name": "b", "spot": None})).prices
    assert (first.name, first.gpus, first.cpus, first.on_demand, first.spot) == ("a", 4, 32, 8.0, 3.0)
    assert (f"{first.date}", first.source, first.currency) == ("2026-02-03", "a page", "EUR")
    assert second.spot is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_demand": 0}, "on_demand.*greater than 0"),
        ({"spot": -1}, "spot"),
        ({"gpus": -1}, "gpus"),
        ({"cpus": 0}, "cpus"),
        ({"currency": "dollars"}, "currency"),
        ({"date": "yesterday"}, "date"),
        ({"source": ""}, "source"),
        ({"name": ""}, "name"),
        ({"gpu": 1}, "unknown key"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"prices\.0.*{message}"):
        load_prices(written(tmp_path, change))


def test_two_currencies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prices in EUR and USD cannot be compared"):
        load_prices(written(tmp_path, {}, {"currency": "USD"}))


def test_an_empty_sheet_and_python_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_prices(written(tmp_path))
    path = tmp_path / "bad.yaml"
    path.write_text("prices: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="is not supported"):
        load_prices(path)


@pytest.mark.parametrize(
    ("machine", "gpus", "cpus", "expected"),
    [
        ((4, 32), 4, 0, 1),
        ((4, 32), 5, 0, 2),
        ((4, 32), 0.5, 0, 1),
        ((4, 32), 4, 65, 3),
        ((4, 32), 0, 8, None),
        ((0, 32), 0, 33, 2),
        ((0, 32), 1, 8, None),
    ],
)
def test_machines_hold_what_is_asked_for(
    machine: tuple[int, int], gpus: float, cpus: float, expected: int | None
) -> None:
    price = Price.model_validate({**ROW, "gpus": machine[0], "cpus": machine[1]})
    assert price.machines(gpus, cpus) == expected
