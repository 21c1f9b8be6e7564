"""Prices of machines, costs of a queue on them, and budgets."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, field_validator

from rt_scale.spec.document import build
from rt_scale.spec.errors import InputError
from rt_scale.spec.part import MOST, Part
from rt_scale.spec.yaml_files import read_document
from rt_scale.store.usage import NodeRate, Unit

if TYPE_CHECKING:
    from rt_scale.plan.plan import Plan
    from rt_scale.plan.simulation import Simulated


class Price(Part):
    """What one kind of machine costs, with the source of the price."""

    name: str = Field(min_length=1)
    """Name of the machine; that of its provider, e.g. g5.xlarge, if it is to be rented by it."""
    provider: Literal["aws", "gcp"] | None = None
    """Who rents it out; null: another, or oneself."""
    region: str | None = None
    """Where it has these prices, e.g. us-east-1; null: anywhere."""
    gpus: int = Field(ge=0, le=MOST)
    """GPUs in it; 0: a machine for runs on CPUs."""
    accelerator: str | None = None
    """Type of the GPUs by Ray's name, e.g. H100; null: not known."""
    cpus: int = Field(ge=1, le=MOST)
    """CPU cores in it."""
    memory: float | None = Field(None, gt=0, le=MOST)
    """GiB of main memory in it; null: not looked up."""
    on_demand: float | None = Field(gt=0)
    """Price per hour, never interrupted; null: unknown."""
    spot: float | None = Field(None, gt=0)
    """Price per hour if it may be interrupted; null: not offered, or unknown."""
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Three capital letters, e.g. USD."""
    date: datetime.date = Field(strict=False)
    """When the price was looked up, e.g. 2026-01-31."""
    source: str = Field(min_length=1)
    """Where it was looked up."""

    def has(self, accelerators: Collection[str]) -> bool:
        """Whether its GPUs may be of these types, as far as is known; an A100-80G is an A100."""
        found = self.accelerator
        return found is None or all(found == each or found.startswith(f"{each}-") for each in accelerators)

    def machines(self, gpus: float, cpus: float) -> int | None:
        """How many of these machines have so many GPUs and cores; None for a machine with GPUs if ``gpus`` is 0, and
        vice versa."""
        if (gpus > 0) != (self.gpus > 0):
            return None
        return max(math.ceil(gpus / self.gpus) if self.gpus else 0, math.ceil(cpus / self.cpus))


class PriceSheet(Part):
    """A file of prices."""

    prices: tuple[Price, ...] = Field(min_length=1, strict=False)
    """One per kind of machine."""

    @field_validator("prices")
    @classmethod
    def _one_currency(cls, prices: tuple[Price, ...]) -> tuple[Price, ...]:
        currencies = sorted({price.currency for price in prices})
        if len(currencies) > 1:
            raise ValueError(
                f"prices in {' and '.join(currencies)} cannot be compared; write all of them in one currency"
            )
        return prices

    @property
    def rates(self) -> list[NodeRate]:
        """What is recorded of it with the nodes that a sweep used."""
        return [
            NodeRate(
                name=price.name, gpus=price.gpus, cpus=price.cpus, accelerator=price.accelerator,
                on_demand=price.on_demand, spot=price.spot, currency=price.currency,
                known=f"{price.source}, {price.date:%Y-%m-%d}",
            )
            for price in self.prices
        ]  # fmt: skip


def load_prices(path: Path) -> PriceSheet:
    """The price sheet in the YAML file ``path``; InputError if it is not valid."""
    return build(PriceSheet, read_document(path), str(path))


@dataclass(frozen=True)
class Cost:
    """What the queue costs on ``machines`` of one kind, which together have the planned capacity.

    ``on_demand``: without interruptions, None if unknown; ``spot``: with the planned ones, None likewise; ``known``:
    source of the price.
    """

    name: str
    machines: int
    on_demand: float | None
    spot: float | None
    currency: str
    known: str


def costs_of(
    sheet: PriceSheet | None,
    capacity: Mapping[Unit, float],
    undisturbed: Simulated,
    interrupted: Simulated | None,
    accelerators: Collection[str] = (),
) -> list[Cost]:
    """Costs on each suitable kind of machine; spot prices are for the ``interrupted`` queue.

    ``accelerators``: the types that runs ask for.
    """
    costs = []
    for price in sheet.prices if sheet else ():
        machines = price.machines(capacity.get("gpu", 0), capacity.get("cpu", 0))
        if machines is None or not price.has(accelerators):
            continue
        on_demand = price.on_demand and price.on_demand * machines * undisturbed.makespan / 3600
        spot = price.spot and price.spot * machines * (interrupted or undisturbed).makespan / 3600
        known = f"{price.source}, {price.date:%Y-%m-%d}"
        costs.append(Cost(price.name, machines, on_demand, spot, price.currency, known))
    return costs


class Least(NamedTuple):
    """The cheapest machines for a plan, and its cost there."""

    amount: float
    cost: Cost


def prices_for(budget: float | None, price: Path | None) -> PriceSheet | None:
    """The price sheet in the file ``price``, if any; InputError if there is a budget and no price sheet."""
    if budget is not None and price is None:
        raise InputError("--budget needs prices: name a sheet with --price (cluster/prices.yaml is one).")
    return None if price is None else load_prices(price)


def check_budget(plan: Plan, budget: float) -> Least | None:
    """The cheapest machines for a plan, None if there is nothing to compute; InputError if it costs over ``budget``.

    ``budget`` is in the price sheet's currency. If interruptions are planned, spot prices count if offered, else those
    on demand.
    """
    if plan.to_sample:
        raise InputError(
            f"The budget cannot be guaranteed: {plan.to_sample} runs will be sampled as others end, and their times "
            "are unknown. Leave --budget out."
        )
    if not plan.to_compute:
        return None
    if plan.unknown:
        raise InputError(
            f"The budget cannot be guaranteed: {plan.unknown} of {plan.to_compute} runs have no estimate. "
            "'rt-scale plan' says what is missing; else leave --budget out."
        )
    paid = [(cost.spot if plan.rate and cost.spot else cost.on_demand, cost) for cost in plan.costs]
    amounts = [Least(amount, cost) for amount, cost in paid if amount is not None]
    if not amounts:
        raise InputError(
            "No machine of the price sheet is for these runs and has a price, so there is no cost to compare with the "
            "budget: runs with launch.gpus: 0 need a row with gpus: 0, others one with gpus; where on_demand is null, "
            "only spot prices count, and only with --rate."
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
