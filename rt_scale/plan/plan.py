"""What a queue of sweeps will take: runs, seconds, machines and money, with the source of each number."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rt_scale.data.prepared import KnownData, known_data
from rt_scale.experiments.base import unfinished
from rt_scale.plan.costs import Cost, PriceSheet, check_budget, costs_of
from rt_scale.plan.simulation import NOTHING, Capacity, Schedule, Simulated, occupied, simulate
from rt_scale.scheduler.job import Job, Where, jobs_of
from rt_scale.spec.run import all_runs, stream
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.store.usage import Planned, Unit
from rt_scale.system.console import amount_text
from rt_scale.system.machine import allowed_cores, mig_devices

if TYPE_CHECKING:
    from rt_scale.plan.estimate import Estimate

DRAWS = 21
"""Number of simulations with interruptions; the median is reported."""

START = 12.0
"""Seconds that the command, Ray and its processes take to start (assumed; 13 s on two busy cores of an AMD EPYC)."""
SHORT = 600.0
"""Seconds of a queue up to which they are added."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The machines that a plan is for.

    Attributes:
        gpus: GPUs at once; None: those here, at least 1.
        cpus: cores at once for runs on CPUs; None: those here.
        rate: interruptions per hour of a running run.
        teraflops: assumed TFLOP/s of a device that is not here; None: measured.
        concurrency: most runs at a time; None: any number.
        there: a cluster's resources, used if ``gpus`` or ``cpus`` is None; None: this machine's.
    """

    gpus: int | None = None
    cpus: int | None = None
    rate: float = 0.0
    prices: PriceSheet | None = None
    teraflops: float | None = None
    concurrency: int | None = None
    there: Mapping[Unit, float] | None = None

    def launched(self, sweeps: Sequence[SweepRuns]) -> Sequence[SweepRuns]:
        """The sweeps; if ``gpus`` is given, those without a GPU get one per run."""
        if self.gpus is None:
            return sweeps
        on_gpus = []
        for sweep in sweeps:
            launch = sweep.spec.launch.model_copy(update={"gpus": sweep.spec.launch.gpus or 1.0})
            on_gpus.append(replace(sweep, spec=sweep.spec.model_copy(update={"launch": launch})))
        return on_gpus

    def capacity(self, kinds: Collection[Unit]) -> dict[Unit, float]:
        """Number of GPUs and cores, limited to ``kinds``."""
        asked: dict[Unit, float | None] = {"gpu": self.gpus, "cpu": self.cpus}
        return {kind: asked[kind] or self._has(kind) for kind in asked if kind in kinds}

    def _has(self, kind: Unit) -> float:
        if self.there is not None:
            return self.there[kind]
        if kind == "cpu":
            return allowed_cores()
        import torch  # not needed by a plan without GPUs

        return len(mig_devices()) or torch.cuda.device_count() or 1


@dataclass(frozen=True)
class Group:
    """Runs with the same kind of estimate.

    Attributes:
        what: encoder, data set, outputs and epochs.
        runs: number of runs to compute.
        seconds: mean of a whole run; None if unknown.
        left: seconds still to be computed for all of them.
        how: source of the seconds.
    """

    what: str
    runs: int
    seconds: float | None
    left: float
    how: str


@dataclass(frozen=True)
class Plan:
    """What sweeps will take.

    Attributes:
        runs: state -> number of the sweeps' distinct runs.
        nodes: number of those and of the runs that they start from.
        ended: runs that their sweep's rule stopped early; they are not resumed.
        to_compute: nodes without a result.
        to_sample: runs that searches will sample; included in no other number.
        groups: of the runs to compute.
        unknown: runs to compute without an estimate; included in no sum.
        processes: that compute all of them; batched runs share one.
        packed: batched runs.
        undecided: runs whose batch size will be measured when they start; planned as single runs.
        gpu_hours, core_hours: still to be computed.
        capacity: ``gpu`` and ``cpu`` -> number of them.
        undisturbed: the queue without interruptions; None if nothing is estimated.
        start: seconds of start-up, included in no other number; None if negligible or unknown.
        rate: interruptions per hour of a running run.
        interrupted: the queue at that rate, the median of ``DRAWS`` simulations; None without interruptions.
        slowest: seconds of the slowest of those.
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
    capacity: Mapping[Unit, float]
    undisturbed: Simulated | None
    start: float | None
    rate: float
    interrupted: Simulated | None
    slowest: float | None
    costs: Sequence[Cost]
    missing_data: Mapping[str, str]

    def to_json(self) -> dict[str, object]:
        """The plan as plain JSON types."""
        return asdict(self)


def _last_checkpoint(store: Store, name: str) -> int:
    return max(store.run(name).checkpoints.steps(), default=0)


def make_plan(sweeps: Sequence[SweepRuns], data_dir: Path, conditions: Conditions) -> Plan:
    """Plan sweeps of one store as one queue of distinct runs; nothing is started.

    Raises:
        InputError: two sweeps with one name, a damaged data set, too few resources, or interruptions so frequent that
            no run ends.
    """
    store, jobs = sweeps[0].store, jobs_of(conditions.launched(sweeps))
    early, todo = _left_of(sweeps, jobs)
    known = known_data([job.spec for job in todo.values()], data_dir)
    states = {name: store.status(name).state for name in {**jobs, **todo}}
    found = _simulated(todo, known, store, conditions) if todo else _Simulations()
    schedule, outcomes = found.schedule, found.interrupted
    undisturbed = schedule.outcome if schedule.together else None
    interrupted = outcomes[DRAWS // 2] if outcomes else None
    here = not conditions.teraflops and conditions.there is None
    return Plan(
        runs=dict(Counter(states[name] for name in jobs)),
        nodes=len(all_runs(job.spec for job in jobs.values())),
        ended=sum(name in early for name in jobs),
        to_compute=len(todo),
        to_sample=sum(sweep.to_sample for sweep in sweeps),
        groups=_groups(todo, found.estimates),
        unknown=len(todo) - len(schedule.together),
        processes=schedule.processes + len(todo) - len(schedule.together),
        packed=sum(number > 1 for number in schedule.together.values()),
        undecided=found.undecided,
        gpu_hours=schedule.work.get("gpu", 0) / 3600,
        core_hours=schedule.work.get("cpu", 0) / 3600,
        capacity=found.capacity,
        undisturbed=undisturbed,
        start=START if undisturbed and undisturbed.makespan <= SHORT and here else None,
        rate=conditions.rate,
        interrupted=interrupted,
        slowest=outcomes[-1].makespan if outcomes else None,
        costs=_costs(todo.values(), found.capacity, undisturbed, interrupted, conditions) if undisturbed else [],
        missing_data=known.missing,
    )


@dataclass(frozen=True)
class Work:
    """Runs to compute, with their estimates.

    Attributes:
        jobs: those with an estimate, by name, in the order in which they are executed.
        estimate: (job, batch size) -> estimate.
        sizes: for ``launch.pack: auto``, the measured best batch size of a job, if any.
        unknown: why other runs have no estimate, once a run.
        concurrency: most runs at a time; None: any number.
    """

    jobs: Mapping[str, Job]
    estimate: Callable[[Job, int], Estimate]
    sizes: Callable[[Job], int | None]
    unknown: Sequence[str] = ()
    concurrency: int | None = None


def work_of(sweeps: Sequence[SweepRuns], data_dir: Path, conditions: Conditions) -> Work:
    """What is left to compute of sweeps of one store; InputError as :func:`make_plan`."""
    store, jobs = sweeps[0].store, jobs_of(conditions.launched(sweeps))
    todo = _left_of(sweeps, jobs)[1]
    return _work(todo, known_data([job.spec for job in todo.values()], data_dir), store, conditions)


def _left_of(sweeps: Sequence[SweepRuns], jobs: Mapping[str, Job]) -> tuple[set[str], dict[str, Job]]:
    """The names of runs that were stopped early, and the jobs to do."""
    early = {name for sweep in sweeps for name in sweep.early_stopped}
    return early, jobs_to_do([job for name, job in jobs.items() if name not in early], sweeps[0].store)


def _work(todo: Mapping[str, Job], known: KnownData, store: Store, conditions: Conditions) -> Work:
    from rt_scale.plan.estimate import Estimator, measured_runs  # imports torch

    begun = {name: store.status(name).state not in ("done", "missing") for name in todo}
    steps = {name: _last_checkpoint(store, name) for name in todo if begun[name]}
    shapes = set() if conditions.teraflops else {job.spec.shape for job in todo.values()}
    estimator = Estimator(measured_runs(store, shapes), known, conditions.teraflops, steps)
    estimates = {name: estimator.estimate(job) for name, job in todo.items()}
    timed = {name: job for name, job in todo.items() if estimates[name].seconds is not None}
    unknown = [found.how for found in estimates.values() if found.seconds is None]
    return Work(timed, estimator.estimate, estimator.best_size, unknown, conditions.concurrency)


def jobs_to_do(jobs: Iterable[Job], store: Store) -> dict[str, Job]:
    """The jobs without a result and those that they start from, by name, in dependency order."""
    wanted = {job.name: job for job in jobs}
    found: dict[str, Job] = {}
    for job in wanted.values():
        needed = {each.name for each in unfinished(job.spec, store)}
        for spec in all_runs([job.spec]) if job.needs else [job.spec]:
            if spec.name in needed:
                found.setdefault(spec.name, wanted.get(spec.name) or Job(spec.name, spec, job.launch))
    return found


class _Simulations(NamedTuple):
    """What a plan simulated.

    Attributes:
        estimates: by run.
        schedule: of the queue without interruptions.
        interrupted: the queue with interruptions, once a draw, the quickest first.
        capacity: ``gpu`` and ``cpu`` -> number of them.
        undecided: how many runs will measure their batch size.
    """

    estimates: Mapping[str, Estimate] = {}
    schedule: Schedule = NOTHING
    interrupted: Sequence[Simulated] = ()
    capacity: Mapping[Unit, float] = {}
    undecided: int = 0


def _simulated(todo: Mapping[str, Job], known: KnownData, store: Store, conditions: Conditions) -> _Simulations:
    work = _work(todo, known, store, conditions)
    capacity = conditions.capacity({occupied(job.launch)[0] for job in work.jobs.values()})
    work_off = functools.partial(
        simulate, work.jobs, work.estimate, concurrency=work.concurrency, sizes=work.sizes
    )  # fmt: skip
    machines = Capacity(capacity)
    schedule, outcomes = work_off(machines), []
    if conditions.there is not None:  # nobody rents more of a cluster than runs use at once
        capacity = {kind: min(amount, math.ceil(machines.peak[kind])) for kind, amount in capacity.items()}
    for draw in range(DRAWS if conditions.rate and work.jobs else 0):
        generator = np.random.default_rng(stream("plan.interruptions", draw))
        outcomes.append(work_off(Capacity(capacity), rate=conditions.rate, generator=generator).outcome)
    estimates = {name: work.estimate(job, schedule.together.get(name, 1)) for name, job in todo.items()}
    auto = (job for job in todo.values() if job.launch.pack == "auto" and not job.spec.alone_because)
    undecided = sum(work.sizes(job) is None for job in auto)
    outcomes.sort(key=lambda outcome: outcome.makespan)
    return _Simulations(estimates, schedule, outcomes, capacity, undecided)


def _costs(
    jobs: Iterable[Job],
    capacity: Mapping[Unit, float],
    undisturbed: Simulated,
    interrupted: Simulated | None,
    conditions: Conditions,
) -> list[Cost]:
    accelerators = {job.launch.accelerator for job in jobs if job.launch.accelerator}
    return costs_of(conditions.prices, capacity, undisturbed, interrupted, accelerators)


def _groups(todo: Mapping[str, Job], estimates: Mapping[str, Estimate]) -> list[Group]:
    grouped: dict[tuple[str, str], list[Estimate]] = {}
    for name, estimate in estimates.items():
        grouped.setdefault((todo[name].spec.title, estimate.how), []).append(estimate)
    return [
        Group(what, len(some), _mean(some), sum(each.left for each in some), how)
        for (what, how), some in grouped.items()
    ]


def _mean(estimates: Sequence[Estimate]) -> float | None:
    seconds = [each.seconds for each in estimates if each.seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


def conditions_of(
    where: Where,
    launches: Iterable[LaunchSpec],
    prices: PriceSheet | None,
    say: Callable[[str], None] = lambda text: None,
) -> Conditions:
    """The conditions on this machine, or on the cluster that ``where`` names, once ``where.wait_nodes`` are there.

    ``say`` is told how many are. InputError: the cluster does not answer, or is too small for a run.
    """
    launches = [*launches]
    there = None
    if not where.alone:
        from rt_scale.ray_backend.cluster import connect

        with connect(where.address, max_nodes=where.max_nodes) as cluster:
            for launch in launches:
                cluster.refuse_impossible(launch)
            if where.wait_nodes is not None:
                cluster.wait_for(where.wait_nodes, launches, say, lambda: False)
            there = cluster.capacity()
    return Conditions(prices=prices, concurrency=where.concurrency, there=there)


def planned(plan: Plan, prices: PriceSheet | None) -> Planned:
    """What is recorded of a plan with what its sweeps then use."""
    found = plan.interrupted or plan.undisturbed
    hours: dict[Unit, float] = {"gpu": plan.gpu_hours, "cpu": plan.core_hours}
    return Planned(
        hours=None if found is None else (found.makespan + (plan.start or 0.0)) / 3600,
        device_hours={kind: amount for kind, amount in hours.items() if amount},
        lost_hours=(plan.interrupted.lost if plan.interrupted else 0.0) / 3600,
        rates=tuple(prices.rates) if prices else (),
    )


def refuse_over_budget(sweeps: Sequence[SweepRuns], budget: float, data_dir: Path, conditions: Conditions) -> str:
    """The estimated cost of sweeps of one store, in words; InputError as ``make_plan`` and ``check_budget``."""
    cost = check_budget(make_plan(sweeps, data_dir, conditions), budget)
    if cost is None:
        return "Nothing is left to compute, and nothing to pay."
    how = " (its cores and GPUs taken to be as fast as those here)" if conditions.there is not None else ""
    amount = amount_text(cost.amount, cost.cost.currency)
    return f"Within the budget: {amount} by the plan, on {cost.cost.machines} x {cost.cost.name}{how}."
