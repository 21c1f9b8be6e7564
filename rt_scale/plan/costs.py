"""What a queue costs on the machines of a price sheet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rt_scale.plan.prices import PriceSheet
from rt_scale.plan.simulation import Simulated
from rt_scale.ray_backend.resources import Kind


@dataclass(frozen=True)
class Cost:
    """What the queue costs on one kind of machine.

    Attributes:
        name: of the machine.
        machines: how many hold the slots that were planned for.
        on_demand: until the last run is done, undisturbed.
        spot: the same with the planned interruptions; None where it is not offered.
        currency: of both.
        known: source and date of the price.
    """

    name: str
    machines: int
    on_demand: float
    spot: float | None
    currency: str
    known: str


def costs_of(
    sheet: PriceSheet | None, capacity: Mapping[Kind, float], undisturbed: Simulated, interrupted: Simulated | None
) -> list[Cost]:
    """What it costs on each kind of machine that is for such runs.

    Args:
        sheet: of prices; None: nothing is known.
        capacity: what is planned for, held by as many machines as that takes.
        undisturbed: the queue on those.
        interrupted: the same with interruptions, where there are any: what is paid on spot machines.
    """
    costs = []
    for price in sheet.prices if sheet else ():
        machines = price.machines(capacity.get("gpu", 0), capacity.get("cpu", 0))
        if machines is None:
            continue
        on_demand = price.on_demand * machines * undisturbed.makespan / 3600
        spot = price.spot and price.spot * machines * (interrupted or undisturbed).makespan / 3600
        known = f"{price.source}, {price.date:%Y-%m-%d}"
        costs.append(Cost(price.name, machines, on_demand, spot, price.currency, known))
    return costs


def amount_text(amount: float, currency: str) -> str:
    """Money in words; less than a tenth to two digits that count."""
    return f"{amount:,.2f} {currency}" if amount >= 0.1 or amount == 0 else f"{amount:.2g} {currency}"
