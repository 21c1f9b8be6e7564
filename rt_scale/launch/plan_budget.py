"""Budgets: what is estimated to cost more is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

from rt_scale.launch.conditions import Conditions, Sweeps
from rt_scale.launch.plan import Plan, make_plan
from rt_scale.launch.prices import PriceSheet, load_prices
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store


def prices_for(budget: float | None, price: Path | None) -> PriceSheet | None:
    """The price sheet in the file ``price``, where one is named; InputError where a budget is, and no sheet."""
    if budget is not None and price is None:
        raise InputError("--budget needs prices: name a sheet with --price (cluster/prices.yaml is one to be edited).")
    return None if price is None else load_prices(price)


def refuse_over_budget(sweeps: Sweeps, budget: float, store: Store, data_dir: Path, conditions: Conditions) -> Plan:
    """The plan of sweeps that are about to start, if what is left of them is within ``budget``.

    Args:
        sweeps: with their points.
        budget: in the price sheet's currency.
        store: where runs are kept.
        data_dir: where prepared data sets are.
        conditions: the machines that they will have, and prices.

    Raises:
        InputError: as ``make_plan`` and ``check_budget``.
    """
    made = make_plan(sweeps, store, data_dir, conditions)
    check_budget(made, budget)
    return made


def check_budget(plan: Plan, budget: float) -> None:
    """Refuse a plan that costs more than ``budget``, in the price sheet's currency, wherever it is run (InputError).

    With interruptions planned for, spot prices count where they are offered; else those on demand.
    """
    if not plan.to_compute:
        return
    if plan.unknown:
        raise InputError(
            f"The budget cannot be kept for sure: {plan.unknown} of {plan.to_compute} runs have no estimate. Make "
            "them known (the plan says how), or leave --budget out."
        )
    amounts = [(cost.spot if plan.rate and cost.spot else cost.on_demand, cost) for cost in plan.costs]
    if not amounts:
        raise InputError(
            "No machine of the price sheet is for these runs, so that the budget cannot be compared with anything: "
            "runs with launch.gpus: 0 need a row with gpus: 0, others one with gpus."
        )
    amount, cost = min(amounts, key=lambda each: each[0])
    if amount > budget:
        raise InputError(
            f"The plan is above the budget of {budget:,.2f} {cost.currency}: the least that it is estimated to cost "
            f"is {amount:,.2f} {cost.currency}, on {cost.machines} x {cost.name}. Nothing was started. Make the grid "
            "smaller or the runs shorter, or raise --budget."
        )
