"""What a queue of sweeps will take: runs, seconds, machines and money, each with how it is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_scale.launch.conditions import Conditions
from rt_scale.launch.known_data import known_data
from rt_scale.launch.plan_queue import build_queue
from rt_scale.launch.prices import PriceSheet
from rt_scale.launch.queue_simulation import Kind, Simulated, Task, simulate
from rt_scale.spec.run import RunSpec
from rt_scale.spec.seeding import stream
from rt_scale.spec.sweep import Point, SweepSpec
from rt_scale.store.store import Store

if TYPE_CHECKING:
    from rt_scale.launch.planned import Planned

DRAWS = 21
"""Simulations with interruptions; the middle one is told."""


@dataclass(frozen=True)
class Group:
    """Runs that are estimated alike.

    Attributes:
        what: encoder, data set, outputs and epochs.
        runs: how many of them are to be computed.
        seconds: of one whole run; None where unknown.
        left: seconds of all of them that are still to be computed.
        how: how the seconds are known.
        loader: what will read training images.
        loader_reason: why.
    """

    what: str
    runs: int
    seconds: float | None
    left: float
    how: str
    loader: str
    loader_reason: str


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


@dataclass(frozen=True)
class Plan:
    """What is to come.

    Attributes:
        runs: state -> runs that the sweep files name, each once.
        nodes: those, and the runs that they start from.
        to_compute: nodes that there is something to compute of.
        groups: of those to compute.
        unknown: how many of those have no estimate; they are in no sum.
        gpu_hours: of computing on GPUs that is left.
        core_hours: of computing on CPU cores that is left.
        capacity: ``gpu`` and ``cpu`` -> how many there are at once.
        undisturbed: the queue on those; None where nothing is estimated.
        rate: interruptions an hour of a running run.
        interrupted: the queue at that rate, the middle one of ``DRAWS``; None without interruptions.
        slowest: seconds of the slowest of those.
        costs: by the price sheet.
        missing_data: data set -> the command that prepares it.
    """

    runs: Mapping[str, int]
    nodes: int
    to_compute: int
    groups: Sequence[Group]
    unknown: int
    gpu_hours: float
    core_hours: float
    capacity: Mapping[Kind, float]
    undisturbed: Simulated | None
    rate: float
    interrupted: Simulated | None
    slowest: float | None
    costs: Sequence[Cost]
    missing_data: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_plan(
    sweeps: Sequence[tuple[SweepSpec, Sequence[Point]]], store: Store, data_dir: Path, conditions: Conditions
) -> Plan:
    """Plan the sweeps as one queue of distinct runs; nothing is started or written.

    Args:
        sweeps: with their points.
        store: where runs are kept.
        data_dir: where prepared data sets are.
        conditions: machines, prices and interruptions.

    Raises:
        InputError: a damaged data set, resources that were not planned for, a rate at which no run ends.
    """
    nodes = build_queue(conditions.launched(sweeps), store)
    todo = [node for node in nodes if node.wanted]
    known = known_data([node.spec for node in todo], data_dir)
    planned: list[Planned] = []
    if todo:
        from rt_scale.launch.planned import plan_runs  # imports torch

        planned = plan_runs(todo, known, store, conditions.teraflops)
    tasks = [each.task for each in planned if each.task is not None]
    capacity = conditions.capacity({task.kind for task in tasks})
    undisturbed = simulate(tasks, capacity) if tasks else None
    outcomes = _outcomes(tasks, capacity, conditions.rate) if tasks and conditions.rate else []
    interrupted = outcomes[DRAWS // 2] if outcomes else None
    return Plan(
        runs=dict(Counter(node.state for node in nodes if node.asked)),
        nodes=len(nodes),
        to_compute=len(todo),
        groups=_groups(planned),
        unknown=len(todo) - len(tasks),
        gpu_hours=_hours(tasks, "gpu"),
        core_hours=_hours(tasks, "cpu"),
        capacity=capacity,
        undisturbed=undisturbed,
        rate=conditions.rate,
        interrupted=interrupted,
        slowest=outcomes[-1].makespan if outcomes else None,
        costs=_costs(conditions.prices, capacity, undisturbed, interrupted) if undisturbed else [],
        missing_data=known.missing,
    )


def _hours(tasks: Sequence[Task], kind: Kind) -> float:
    return sum(task.seconds * task.units for task in tasks if task.kind == kind) / 3600


def _outcomes(tasks: Sequence[Task], capacity: Mapping[Kind, float], rate: float) -> list[Simulated]:
    """The quickest first."""
    seeds = (stream("plan.interruptions", draw) for draw in range(DRAWS))
    outcomes = [simulate(tasks, capacity, rate=rate, generator=np.random.default_rng(seed)) for seed in seeds]
    return sorted(outcomes, key=lambda outcome: outcome.makespan)


def _groups(planned: Sequence[Planned]) -> list[Group]:
    grouped: dict[tuple[str, str, str, str], list[Planned]] = {}
    for each in planned:
        key = (_what(each.node.spec), each.estimate.how, each.loader.name, each.loader.reason)
        grouped.setdefault(key, []).append(each)
    return [
        Group(what, len(some), _mean(some), sum(each.estimate.left for each in some), how, loader, reason)
        for (what, how, loader, reason), some in grouped.items()
    ]


def _mean(planned: Sequence[Planned]) -> float | None:
    seconds = [each.estimate.seconds for each in planned if each.estimate.seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


def _what(spec: RunSpec) -> str:
    encoder, epochs = spec.encoder, spec.train.epochs
    kind = "" if spec.kind == "distill" else f"{spec.kind}: "
    width = "" if encoder.width == 1 else f" x {encoder.width:g}"
    norm = "" if encoder.norm == "none" else f" {encoder.norm}"
    samples = "" if spec.data.samples is None else f" ({spec.data.samples:,})"
    length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    return f"{kind}{encoder.name}{width}{norm}, {spec.data.name}{samples}, {spec.projector.out_dim:,} outputs, {length}"


def _costs(
    sheet: PriceSheet | None, capacity: Mapping[Kind, float], undisturbed: Simulated, interrupted: Simulated | None
) -> list[Cost]:
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
