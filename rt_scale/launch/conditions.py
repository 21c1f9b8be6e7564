"""What a plan is for: machines, prices and interruptions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rt_scale.launch.prices import PriceSheet
from rt_scale.launch.queue_simulation import Kind
from rt_scale.spec.sweep import Point, SweepSpec

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
    """

    gpus: int | None = None
    cpus: int | None = None
    rate: float = 0.0
    prices: PriceSheet | None = None
    teraflops: float | None = None

    def launched(self, sweeps: Sweeps) -> Sweeps:
        """The sweeps; those that ask for no GPU with one a run, where ``gpus`` says that there are some."""
        if self.gpus is None:
            return sweeps
        one = [sweep.launch.model_copy(update={"gpus": sweep.launch.gpus or 1.0}) for sweep, _ in sweeps]
        return [
            (sweep.model_copy(update={"launch": launch}), points)
            for (sweep, points), launch in zip(sweeps, one, strict=True)
        ]

    def capacity(self, kinds: Collection[Kind]) -> dict[Kind, float]:
        """How many GPUs and cores there are at once, of the ``kinds`` that are needed."""
        there: dict[Kind, float] = {}
        if "gpu" in kinds:
            there["gpu"] = self.gpus or _gpus_here()
        if "cpu" in kinds:
            there["cpu"] = self.cpus or _cores_here()
        return there


def _gpus_here() -> int:
    import torch  # which a plan without GPUs may do without

    return torch.cuda.device_count() or 1


def _cores_here() -> int:
    from rt_scale.data.machine import allowed_cores

    return allowed_cores()
