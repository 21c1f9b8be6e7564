"""How many nodes pay off, against schedules that can be done by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rt_scale.plan.estimate import Estimate
from rt_scale.plan.nodes import (
    BOOT,
    IDLE,
    NodeOffer,
    NodesPlan,
    RentedNodes,
    choose_nodes,
    nodes_plan,
    offer_of,
    offer_plans,
)  # fmt: skip
from rt_scale.plan.plan import Conditions, Work, work_of
from rt_scale.plan.simulation import simulate
from rt_scale.ray_backend.resources import GIB, Node
from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from tests.unit.plan.planning import HOUR, every_run_takes, sheet, sweeps

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}}
CPUS = NodeOffer(Node("small", {"CPU": 2.0}), 3.0, "EUR")


def work(*seconds: float, launch: LaunchSpec | None = None, checkpoint: float = math.inf) -> Work:
    specs = [RunSpec.model_validate({**BASE, "seeds": {"data": number}}) for number in range(len(seconds))]
    takes = {spec.name: each for spec, each in zip(specs, seconds, strict=True)}
    jobs = {spec.name: Job(spec.name, spec, launch or LaunchSpec()) for spec in specs}

    def estimate(job: Job, together: int) -> Estimate:
        return Estimate(takes[job.name], takes[job.name], checkpoint, "")

    return Work(jobs, estimate, lambda job: None)


def taken(given: Work, machines: RentedNodes) -> tuple[float, int, float]:
    """Seconds until the end, most nodes at once, seconds paid."""
    end = simulate(given.jobs, given.estimate, machines).outcome.makespan
    return end, machines.asked, machines.paid()


def test_nodes_start_when_runs_need_them_and_are_paid_until_they_were_idle() -> None:
    rented = RentedNodes(Node("small", {"CPU": 2}), 2, boot=10, idle=5)
    # Two on the first node, one on the second: 10-110, 10-60, 10-40.
    assert taken(work(100, 50, 30), rented) == (110, 2, 115 + 45)


def test_a_node_that_was_given_back_starts_again() -> None:
    rented, launch = RentedNodes(Node("small", {"CPU": 1}), 1, boot=10, idle=5), LaunchSpec()
    first, where = rented.occupy(launch, 0.0)
    rented.free(launch, where, 20.0)
    soon, where = rented.occupy(launch, 25.0)
    rented.free(launch, where, 30.0)
    late, where = rented.occupy(launch, 36.0)
    rented.free(launch, where, 50.0)
    assert (first, soon, late) == (10, 25, 46)
    assert rented.paid() == 35 + (55 - 36)


@pytest.mark.parametrize(
    ("launch", "node", "held"),
    [
        (LaunchSpec(gpus=0.3), {"CPU": 32, "GPU": 2}, 6),
        (LaunchSpec(gpus=1, cpus=8), {"CPU": 20, "GPU": 4}, 2),
        (LaunchSpec(memory=3), {"CPU": 32, "memory": 10 * GIB}, 3),
        (LaunchSpec(gpus=1, accelerator="H100"), {"CPU": 32, "GPU": 4, "accelerator_type:H100": 1}, 4),
        (LaunchSpec(workers=2, cpus=3), {"CPU": 4}, 1),
    ],
)
def test_runs_fit_as_on_real_nodes(launch: LaunchSpec, node: dict[str, float], held: int) -> None:
    most = launch.workers
    rented = RentedNodes(Node("n", node), most, boot=0, idle=0)
    assert rented.at_once(launch) == held
    where = []
    while rented.has_room(launch, {}):
        where.append(rented.occupy(launch, 0.0)[1])
    assert len(where) == held
    rented.free(launch, where[0], 1.0)
    assert rented.has_room(launch, {})


def test_a_run_that_no_such_node_holds_is_refused() -> None:
    with pytest.raises(InputError, match="asks for 3 CPUs on one node, which no node of this kind"):
        choose_nodes(work(1, launch=LaunchSpec(cpus=3)), CPUS)
    with pytest.raises(InputError, match="Unknown accelerator 'H100'"):
        choose_nodes(
            work(1, launch=LaunchSpec(gpus=1, accelerator="H100")),
            NodeOffer(Node("a", {"CPU": 8, "GPU": 1, "accelerator_type:A100": 1})),
        )


TEN = [HOUR] * 10
"""On nodes of two cores: 5, 3, 2, 2 and 1 hours on 1 to 5 of them."""


def chosen(*seconds: float, **more: Any) -> NodesPlan:
    return choose_nodes(work(*seconds), CPUS, **{"boot": 0.0, "idle": 0.0, **more})


@pytest.mark.parametrize(("deadline", "nodes"), [(6, 1), (5, 1), (4.9, 2), (2.9, 3), (1.9, 5)])
def test_the_fewest_nodes_that_keep_the_deadline(deadline: float, nodes: int) -> None:
    found = chosen(*TEN, deadline=deadline)
    assert found.nodes == nodes
    assert found.hours is not None
    assert found.hours <= deadline
    assert found.why == f"the fewest that keep the deadline of {deadline:g} h"


def test_start_up_counts_against_the_deadline() -> None:
    assert chosen(*TEN, deadline=3).nodes == 2
    assert chosen(*TEN, deadline=3, boot=60.0).nodes == 3


def test_a_deadline_that_no_number_keeps_is_refused() -> None:
    with pytest.raises(InputError, match=r"deadline of 0.9 h cannot be kept.*1 h on 5 nodes"):
        chosen(*TEN, deadline=0.9)
    with pytest.raises(InputError, match=r"2 h on 4 nodes"):
        chosen(*TEN, deadline=1.9, most=4)


def test_the_fastest_within_the_budget() -> None:
    # Five node-hours of runs at 3 EUR; with half an hour of idle time a node.
    idle = 1800.0
    assert [round(nodes_plan(work(*TEN), CPUS, n, boot=0, idle=idle).cost or 0, 6) for n in (1, 2, 3, 5)] == [
        16.5, 18.0, 19.5, 22.5
    ]  # fmt: skip
    assert chosen(*TEN, budget=22.5, idle=idle).nodes == 5
    # The fourth saves nothing.
    found = chosen(*TEN, budget=22.0, idle=idle)
    assert (found.nodes, found.hours, found.why) == (3, 2.0, "the fastest within the budget of 22.00 EUR")
    assert chosen(*TEN, budget=16.5, idle=idle).nodes == 1
    with pytest.raises(InputError, match=r"16.00 EUR cannot be kept: by the plan the runs cost 16.50 EUR on 1 node"):
        chosen(*TEN, budget=16, idle=idle)
    with pytest.raises(InputError, match=r"takes 5 nodes \(small\) and 22.50 EUR, above the budget of 20.00 EUR"):
        chosen(*TEN, deadline=1, budget=20, idle=idle)
    with pytest.raises(InputError, match="A budget needs a price"):
        choose_nodes(work(*TEN), replace(CPUS, price=None), budget=3)


def test_without_either_more_nodes_must_save_time() -> None:
    assert chosen(*TEN).nodes == 5
    long = chosen(*[HOUR] * 400)
    assert 15 <= long.nodes <= 20
    assert "less than 5%" in long.why
    # A node takes so long to start that a second one saves next to nothing.
    assert chosen(*[1.0] * 8, boot=600.0).nodes == 1
    assert chosen(*TEN, most=3).nodes == 3


def test_interruptions_take_time_and_money() -> None:
    given = work(*TEN, checkpoint=1200.0)
    calm, rough = (nodes_plan(given, CPUS, 2, boot=300.0, rate=rate) for rate in (0.0, 0.5))
    assert (calm.interruptions, calm.lost_hours) == (0, 0.0)
    assert rough.interruptions > 0
    assert rough.lost_hours > 0
    assert (rough.hours or 0) > (calm.hours or 0)
    assert (rough.cost or 0) > (calm.cost or 0)


def test_rows_of_a_price_sheet_are_kinds() -> None:
    plain, large = sheet({"memory": 4.0}, {"name": "b", "gpus": 2, "spot": None}).prices
    assert offer_of(plain).price == 3.0
    assert offer_of(plain, spot=True).price == 1.0
    assert offer_of(large, spot=True).price == 3.0
    assert offer_of(plain).node.holds({"CPU": 1, "memory": 3 * GIB}) == 1
    assert offer_of(large).node.holds({"CPU": 1, "GPU": 1, "memory": 300 * GIB}) == 2
    assert offer_of(large).currency == "EUR"


def test_runs_without_an_estimate_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = sweeps(Store(tmp_path), {"seeds": 4})
    every_run_takes(monkeypatch, HOUR)
    some = work_of(given, tmp_path, Conditions(concurrency=1))
    assert choose_nodes(some, CPUS, boot=0.0).hours == 4.0
    assert choose_nodes(replace(some, unknown=["no"]), CPUS).why.endswith("not counted: 1 run without an estimate")
    every_run_takes(monkeypatch, None)
    none = choose_nodes(work_of(given, tmp_path, Conditions()), CPUS)
    assert (none.nodes, none.hours, none.cost) == (1, None, None)
    assert none.why.startswith("no run has an estimate (fixed")


def test_every_row_of_a_sheet_is_planned_or_says_why_not() -> None:
    rows = sheet({"on_demand": 3.0, "spot": 1.0}, {"name": "one", "cpus": 1, "spot": None}, {"name": "b", "gpus": 1})
    given = work(*TEN, launch=LaunchSpec(cpus=2))
    small, one = offer_plans(given, rows, most=5)
    assert small.plan is not None
    assert (small.plan.nodes, small.plan.hours) == (5, 2 + BOOT / HOUR)
    assert small.plan.cost == pytest.approx(3 * 5 * (2 + (BOOT + IDLE) / HOUR))
    assert small.spot == pytest.approx((small.plan.cost or 0) / 3)
    assert (one.plan, one.spot) == (None, None)
    assert "asks for 2 CPUs on one node" in one.why
    (held,) = offer_plans(given, sheet({}), deadline=4.0)
    assert held.plan is not None
    assert (held.plan.nodes, held.plan.why) == (4, "the fewest that keep the deadline of 4 h")
    (late,) = offer_plans(given, sheet({}), deadline=4.0, most=2)
    assert "deadline of 4 h cannot be kept" in late.why
    (rough,) = offer_plans(work(*TEN, checkpoint=1200.0), sheet({}), most=2, rate=0.5)
    (calm,) = offer_plans(work(*TEN, checkpoint=1200.0), sheet({}), most=2)
    assert rough.plan == calm.plan
    assert (rough.spot or 0) > (calm.spot or 0)
