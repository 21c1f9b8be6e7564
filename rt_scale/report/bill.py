"""The bill of sweeps: what was used of their nodes, idle, computed twice, and what it costs, beside the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rt_scale.spec.errors import counted
from rt_scale.store.store import SweepDir
from rt_scale.store.usage import NodeRate, NodeUse, Planned, Unit, Usage, read_usage, stays, total
from rt_scale.system.console import amount_text, duration_text, number_text

UNITS: dict[Unit, str] = {"gpu": "GPU", "cpu": "core"}
"""What is counted, in words."""


@dataclass(frozen=True)
class NodeLine:
    """The nodes of one kind.

    Attributes:
        kind: what they have, in words, or the price's name.
        nodes: number of stays of nodes.
        hours: of all nodes, from joining to leaving.
        used, idle: GPU- or core-hours that runs held, and that they did not.
        on_demand, spot: what the hours cost; None if the price is unknown or not offered.
        known: source of the price.
    """

    kind: str
    nodes: int
    hours: float
    used: float
    idle: float
    on_demand: float | None
    spot: float | None
    known: str


@dataclass(frozen=True)
class Bill:
    """What sweeps used, of all their drivers.

    Attributes:
        unit: ``gpu`` or ``cpu``: what ``used``, ``idle`` and ``lost`` count, in hours.
        seconds: during which a driver was at work.
        lost: part of ``used`` that was computed twice, as runs were interrupted.
        on_demand, spot: of all nodes; None if the price of a kind is unknown, or no spot price is.
        planned: what the first driver planned.
    """

    unit: Unit
    drivers: int
    seconds: float
    lines: Sequence[NodeLine]
    used: float
    idle: float
    lost: float
    interruptions: int
    on_demand: float | None
    spot: float | None
    currency: str
    planned: Planned | None

    def to_json(self) -> dict[str, object]:
        """The bill as plain JSON types."""
        return asdict(self) | {"planned": self.planned and self.planned.to_json()}

    @property
    def summary(self) -> str:
        """The bill in a sentence."""
        word = UNITS[self.unit]
        lost = f", {number_text(self.lost)} of them computed twice after {counted(self.interruptions, 'interruption')}"
        text = f"Runs held {number_text(self.used)} {word}-hours{lost if self.interruptions else ''}"
        nodes = sum(line.nodes for line in self.lines)
        text += f"; {number_text(self.idle)} were idle, on {counted(nodes, 'node')} in {duration_text(self.seconds)}"
        return f"{text}{f'. Cost: {self.cost}' if self.cost else ''}."

    @property
    def short(self) -> str:
        """The cost, or that it is unknown, and what runs held."""
        return f"{self.cost or 'price not known'}; {number_text(self.used)} {UNITS[self.unit]}-hours of runs"

    @property
    def cost(self) -> str:
        """What the nodes cost, in words; empty if unknown."""
        if self.on_demand is None:
            return ""
        spot = "" if self.spot is None else f", {amount_text(self.spot, self.currency)} at spot prices"
        return f"{amount_text(self.on_demand, self.currency)} on demand{spot}"

    @property
    def notes(self) -> list[str]:
        """Sentences on the plan, and on what is not counted."""
        found = [
            "Counted from the joining of a node to its end: without its start-up, and without a head that has no runs."
        ]
        if self.planned is not None:
            hours = "unknown" if self.planned.hours is None else duration_text(3600 * self.planned.hours)
            device = self.planned.device_hours.get(self.unit, 0.0)
            found.insert(0, f"The plan at the start: {hours}, {number_text(device)} {UNITS[self.unit]}-hours of runs.")
        if self.on_demand is None:
            found.append("No price is known of all nodes: name a price sheet with --price.")
        return found

    @property
    def table(self) -> list[list[str]]:
        """Titles and a row for each kind of node."""
        word = UNITS[self.unit]
        rows = [["nodes", "number", "hours", f"used {word}-hours", f"idle {word}-hours", "on demand", "spot", "price"]]
        for line in self.lines:
            costs = ["" if cost is None else amount_text(cost, self.currency) for cost in (line.on_demand, line.spot)]
            amounts = [number_text(line.hours), number_text(line.used), number_text(line.idle)]
            rows.append([line.kind, str(line.nodes), *amounts, *costs, line.known])
        return rows


def bill_of(folders: Sequence[SweepDir], rates: Sequence[NodeRate] = ()) -> Bill | None:
    """The bill of sweeps, None if no driver recorded anything; ``rates``: those of the plan if there are none."""
    usages = read_usage(folders)
    found = [stay for stay in stays(usages) if stay.end > stay.start]
    if not found:
        return None
    planned = next((usage.planned for usage in usages if usage.planned is not None), None)
    rates = rates or (planned.rates if planned else ())
    unit: Unit = "gpu" if any(stay.held.get("gpu") for stay in found) else "cpu"
    lines = _lines(found, unit, rates)
    amounts = [line.on_demand for line in lines]
    spots = [line.spot for line in lines]
    return Bill(
        unit=unit,
        drivers=len(usages),
        seconds=sum(usage.end - usage.start for usage in _apart(usages)),
        lines=lines,
        used=sum(line.used for line in lines),
        idle=sum(line.idle for line in lines),
        lost=total(usage.lost for usage in usages).get(unit, 0.0) / 3600,
        interruptions=sum(usage.interruptions for usage in usages),
        on_demand=None if None in amounts else sum(amount or 0.0 for amount in amounts),
        spot=None if None in spots else sum(spot or 0.0 for spot in spots),
        currency=rates[0].currency if rates else "",
        planned=planned,
    )


def _lines(found: Sequence[NodeUse], unit: Unit, rates: Sequence[NodeRate]) -> list[NodeLine]:
    kinds: dict[tuple[float, float, str], list[NodeUse]] = {}
    for stay in found:
        kinds.setdefault((stay.has.get("gpu", 0), stay.has.get("cpu", 0), stay.accelerator), []).append(stay)
    lines = []
    for (gpus, cpus, accelerator), members in kinds.items():
        rate = next((rate for rate in rates if _is(rate, gpus, cpus, accelerator)), None)
        hours = sum(stay.end - stay.start for stay in members) / 3600
        used = sum(stay.held.get(unit, 0.0) for stay in members) / 3600
        there = hours * (gpus if unit == "gpu" else cpus)
        words = counted(int(cpus), "CPU") + (f", {counted(int(gpus), 'GPU')}" if gpus else "")
        lines.append(
            NodeLine(
                kind=rate.name if rate else f"{words}{f' ({accelerator})' if accelerator else ''}",
                nodes=len(members),
                hours=hours,
                used=used,
                idle=max(0.0, there - used),
                on_demand=None if rate is None or rate.on_demand is None else hours * rate.on_demand,
                spot=None if rate is None or rate.spot is None else hours * rate.spot,
                known=rate.known if rate else "",
            )
        )
    return lines


def _is(rate: NodeRate, gpus: float, cpus: float, accelerator: str) -> bool:
    """Whether a price is for nodes with so many GPUs and cores; of its GPUs' type as far as both are known."""
    types = not rate.accelerator or not accelerator or rate.accelerator.startswith(accelerator)
    return (rate.gpus, rate.cpus) == (gpus, cpus) and types


def _apart(usages: Sequence[Usage]) -> list[Usage]:
    """The times of drivers without those that overlap earlier ones."""
    found: list[Usage] = []
    until = 0.0
    for usage in usages:
        if usage.end > until:
            found.append(usage.model_copy(update={"start": max(usage.start, until)}))
            until = usage.end
    return found
