"""Budgets: what is estimated to cost more is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rt_scale.plan.conditions import Conditions
from rt_scale.plan.costs import Cost, amount_text
from rt_scale.plan.plan import Plan, make_plan
from rt_scale.plan.prices import PriceSheet, load_prices
from rt_scale.scheduler.job import Where
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.sweep_runs import SweepRuns


class Least(NamedTuple):
    """The machines on which a plan costs least.

    Attributes:
        amount: that it costs there.
        cost: those machines.
    """

    amount: float
    cost: Cost


def prices_for(budget: float | None, price: Path | None) -> PriceSheet | None:
    """The price sheet in the file ``price``, where one is named; InputError where a budget is, and no sheet."""
    if budget is not None and price is None:
        raise InputError("--budget needs prices: name a sheet with --price (cluster/prices.yaml is one to be edited).")
    return None if price is None else load_prices(price)


def conditions_of(where: Where, launches: Iterable[LaunchSpec], prices: PriceSheet | None) -> Conditions:
    """What sweeps that are about to start are planned for: this machine, or the cluster that is to execute them.

    Args:
        where: where they are executed.
        launches: their launch sections.
        prices: of machines.

    Raises:
        InputError: where the cluster does not answer, or can never hold such runs.
    """
    there = None
    if not where.alone:
        from rt_scale.ray_backend.cluster import connect

        with connect(where.address) as cluster:
            for launch in launches:
                cluster.refuse_impossible(launch)
            there = cluster.capacity()
    return Conditions(prices=prices, concurrency=where.concurrency, there=there)


def refuse_over_budget(sweeps: Sequence[SweepRuns], budget: float, data_dir: Path, conditions: Conditions) -> str:
    """What is left of sweeps that are about to start is estimated to cost, if that is within ``budget``; in words.

    Args:
        sweeps: of one store.
        budget: in the price sheet's currency.
        data_dir: where prepared data sets are.
        conditions: the machines that they will have, and prices.

    Raises:
        InputError: as ``make_plan`` and ``check_budget``.
    """
    cost = check_budget(make_plan(sweeps, data_dir, conditions), budget)
    if cost is None:
        return "Nothing is left to compute, and nothing to pay."
    how = " (its cores and GPUs taken to be as fast as those here)" if conditions.there is not None else ""
    amount = amount_text(cost.amount, cost.cost.currency)
    return f"Within the budget: {amount} by the plan, on {cost.cost.machines} x {cost.cost.name}{how}."


def check_budget(plan: Plan, budget: float) -> Least | None:
    """Refuse a plan that costs more than ``budget``, in the price sheet's currency, wherever it is run (InputError).

    With interruptions planned for, spot prices count where they are offered; else those on demand.

    Returns:
        Where it costs least; None where there is nothing to compute.
    """
    if plan.to_sample:
        raise InputError(
            f"The budget cannot be kept for sure: {plan.to_sample} runs will be sampled as others end, and nothing is "
            "known of what they take. Leave --budget out."
        )
    if not plan.to_compute:
        return None
    if plan.unknown:
        raise InputError(
            f"The budget cannot be kept for sure: {plan.unknown} of {plan.to_compute} runs have no estimate. Make "
            "them known (rt-scale plan says how), or leave --budget out."
        )
    amounts = [Least(cost.spot if plan.rate and cost.spot else cost.on_demand, cost) for cost in plan.costs]
    if not amounts:
        raise InputError(
            "No machine of the price sheet is for these runs, so that the budget cannot be compared with anything: "
            "runs with launch.gpus: 0 need a row with gpus: 0, others one with gpus."
        )
    least = min(amounts, key=lambda each: each.amount)
    if least.amount > budget:
        currency = least.cost.currency
        digits = next((count for count in range(2, 12) if round(least.amount, count) > round(budget, count)), 12)
        raise InputError(
            f"The plan is above the budget of {budget:,.{digits}f} {currency}: the least that it is estimated to cost "
            f"is {least.amount:,.{digits}f} {currency}, on {least.cost.machines} x {least.cost.name}. Nothing was "
            "started. Make the grid smaller or the runs shorter, or raise --budget."
        )
    return least
