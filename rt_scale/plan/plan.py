"""What a queue of sweeps will take: runs, seconds, machines and money, each with how it is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rt_scale.data.prepared import known_data
from rt_scale.plan.conditions import Conditions
from rt_scale.plan.costs import Cost, costs_of
from rt_scale.plan.queue import build_queue
from rt_scale.plan.simulation import Simulated, SimulatedJob, simulate
from rt_scale.ray_backend.resources import Kind
from rt_scale.scheduler.preflight import refuse_packed
from rt_scale.spec.run import RunSpec, stream
from rt_scale.store.sweep_runs import SweepRuns

if TYPE_CHECKING:
    from rt_scale.plan.jobs import Planned, Process

DRAWS = 21
"""Simulations with interruptions; the middle one is told."""

SHORT = 600.0
"""Seconds of a queue up to which its start counts."""


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
class Plan:
    """What is to come.

    Attributes:
        runs: state -> runs that the sweep files name, each once.
        nodes: those, and the runs that they start from.
        ended: of the runs, those that their sweep's rule ended early; they are not gone on with.
        to_compute: nodes that there is something to compute of.
        to_sample: runs that searches will sample; nothing is known of them, and they are in no other number.
        groups: of those to compute.
        unknown: how many of those have no estimate; they are in no sum.
        processes: that compute all of those: runs that are packed share one.
        packed: runs that do.
        undecided: how many will be packed, or not, as is measured when they start; they are planned as runs alone.
        gpu_hours: of computing on GPUs that is left.
        core_hours: of computing on CPU cores that is left.
        capacity: ``gpu`` and ``cpu`` -> how many there are at once.
        undisturbed: the queue on those; None where nothing is estimated.
        start: seconds that a sweep takes beside its runs, in no other number; None where it is little beside them.
        rate: interruptions an hour of a running run.
        interrupted: the queue at that rate, the middle one of ``DRAWS``; None without interruptions.
        slowest: seconds of the slowest of those.
        costs: by the price sheet.
        missing_data: data set -> the command that prepares it.
    """

    runs: Mapping[str, int]
    nodes: int
    ended: int
    to_compute: int
    to_sample: int
    groups: Sequence[Group]
    unknown: int
    processes: int
    packed: int
    undecided: int
    gpu_hours: float
    core_hours: float
    capacity: Mapping[Kind, float]
    undisturbed: Simulated | None
    start: float | None
    rate: float
    interrupted: Simulated | None
    slowest: float | None
    costs: Sequence[Cost]
    missing_data: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def make_plan(sweeps: Sequence[SweepRuns], data_dir: Path, conditions: Conditions) -> Plan:
    """Plan the sweeps as one queue of distinct runs; nothing is written, nothing started but short runs to be timed.

    Args:
        sweeps: of one store.
        data_dir: where prepared data sets are.
        conditions: machines, prices and interruptions.

    Raises:
        InputError: a damaged data set, resources that were not planned for, a rate at which no run ends, runs packed
            that explore.
    """
    for sweep in sweeps:
        refuse_packed(sweep.spec)
    over = {name for sweep in sweeps for name in sweep.early_stopped}
    nodes = build_queue(conditions.launched(sweeps), over)
    todo = [node for node in nodes if node.wanted]
    known = known_data([node.spec for node in todo], data_dir)
    processes: list[Process] = []
    tasks: list[SimulatedJob] = []
    if todo:
        from rt_scale.plan.jobs import plan_runs, tasks_of  # imports torch

        processes = plan_runs(todo, known, sweeps[0].store, conditions, data_dir)
        tasks = tasks_of(processes)
    planned = [run for runs in processes for run in runs]
    capacity = conditions.capacity_for(tasks)
    undisturbed = simulate(tasks, capacity, concurrency=conditions.concurrency) if tasks else None
    outcomes = _outcomes(tasks, capacity, conditions) if tasks and conditions.rate else []
    interrupted = outcomes[DRAWS // 2] if outcomes else None
    return Plan(
        runs=dict(Counter(node.state for node in nodes if node.asked)),
        nodes=len(nodes),
        ended=sum(node.asked and node.spec.name in over for node in nodes),
        to_compute=len(todo),
        to_sample=sum(sweep.to_sample for sweep in sweeps),
        groups=_groups(planned),
        unknown=len(todo) - sum(task.runs for task in tasks),
        processes=len(processes),
        packed=sum(len(runs) for runs in processes if len(runs) > 1),
        undecided=sum(run.undecided for run in planned),
        gpu_hours=_hours(tasks, "gpu"),
        core_hours=_hours(tasks, "cpu"),
        capacity=capacity,
        undisturbed=undisturbed,
        start=_start(undisturbed, conditions),
        rate=conditions.rate,
        interrupted=interrupted,
        slowest=outcomes[-1].makespan if outcomes else None,
        costs=costs_of(conditions.prices, capacity, undisturbed, interrupted) if undisturbed else [],
        missing_data=known.missing,
    )


def _start(queue: Simulated | None, conditions: Conditions) -> float | None:
    """Timed on this machine, where the runs are to be and the queue is short."""
    if queue is None or queue.makespan > SHORT or conditions.teraflops or conditions.there is not None:
        return None
    from rt_scale.plan.short_run import start_seconds  # imports torch

    return start_seconds()


def _hours(tasks: Sequence[SimulatedJob], kind: Kind) -> float:
    return sum(task.seconds * task.units for task in tasks if task.kind == kind) / 3600


def _outcomes(tasks: Sequence[SimulatedJob], capacity: Mapping[Kind, float], conditions: Conditions) -> list[Simulated]:
    """The quickest first."""
    generators = [np.random.default_rng(stream("plan.interruptions", draw)) for draw in range(DRAWS)]
    rate, most = conditions.rate, conditions.concurrency
    outcomes = [simulate(tasks, capacity, concurrency=most, rate=rate, generator=each) for each in generators]
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
