"""What a plan is for: machines, prices and interruptions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rt_scale.plan.prices import PriceSheet
from rt_scale.plan.simulation import ROUNDING, SimulatedJob
from rt_scale.ray_backend.resources import Kind
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.sweep_runs import SweepRuns

Sweeps = Sequence[tuple[SweepSpec, Sequence[Point]]]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a plan is for.

    Attributes:
        gpus: GPUs at once; None: those here, at least 1.
        cpus: cores at once for runs on CPUs; None: those here.
        rate: interruptions an hour of a running run.
        prices: of machines.
        teraflops: of a device that is not here, assumed; None: measured.
        concurrency: runs at a time, at most; None: any number.
        there: what a cluster has that is asked for neither by ``gpus`` nor ``cpus``; None: it is this machine.
    """

    gpus: int | None = None
    cpus: int | None = None
    rate: float = 0.0
    prices: PriceSheet | None = None
    teraflops: float | None = None
    concurrency: int | None = None
    there: Mapping[Kind, float] | None = None

    def launched(self, sweeps: Sequence[SweepRuns]) -> Sequence[SweepRuns]:
        """The sweeps; those that ask for no GPU with one a run, where ``gpus`` says that there are some."""
        if self.gpus is None:
            return sweeps
        one = [each.spec.launch.model_copy(update={"gpus": each.spec.launch.gpus or 1.0}) for each in sweeps]
        return [
            replace(sweep, spec=sweep.spec.model_copy(update={"launch": launch}))
            for sweep, launch in zip(sweeps, one, strict=True)
        ]

    def capacity(self, kinds: Collection[Kind]) -> dict[Kind, float]:
        """How many GPUs and cores there are at once, of the ``kinds`` that are needed."""
        asked: dict[Kind, float | None] = {"gpu": self.gpus, "cpu": self.cpus}
        return {kind: asked[kind] or self._has(kind) for kind in asked if kind in kinds}

    def capacity_for(self, tasks: Sequence[SimulatedJob]) -> dict[Kind, float]:
        """The same for ``tasks``; of a cluster, what they can use, since nobody rents the rest for them."""
        capacity = self.capacity({task.kind for task in tasks})
        if self.there is None:
            return capacity
        used = {kind: sum(task.units for task in tasks if task.kind == kind) for kind in capacity}
        return {kind: min(amount, math.ceil(used[kind])) for kind, amount in capacity.items()}

    def _has(self, kind: Kind) -> float:
        if self.there is not None:
            return self.there[kind]
        return _gpus_here() if kind == "gpu" else _cores_here()

    def slots(self, launch: LaunchSpec) -> int:
        """How many processes of runs of that section there are at once, at least 1."""
        kind, units = occupied(launch)
        return max(1, int(self.capacity({kind})[kind] / units + ROUNDING))


def occupied(launch: LaunchSpec) -> tuple[Kind, float]:
    """What a run takes with all of its workers, and how many of that."""
    return "gpu" if launch.gpus else "cpu", (launch.gpus or launch.cpus) * launch.workers


def _gpus_here() -> int:
    import torch  # which a plan without GPUs may do without

    return torch.cuda.device_count() or 1


def _cores_here() -> int:
    from rt_scale.system.machine import allowed_cores

    return allowed_cores()
