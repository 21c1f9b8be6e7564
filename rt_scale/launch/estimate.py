"""How long a run takes: from runs of its shape where there are any, else from its FLOPs."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rt_scale.data.info import DataInfo
from rt_scale.launch.calibration import Calibration, Rates, assumed
from rt_scale.launch.checkpoint_times import between_checkpoints, checkpoint_bytes
from rt_scale.launch.known_data import KnownData
from rt_scale.launch.measured import Measured, shape
from rt_scale.launch.plan_queue import Node, evaluations, training_steps
from rt_scale.launch.run_work import EFFICIENCY, RunWork, count_run
from rt_scale.spec.run import RunSpec

ASSUMED = f"several are assumed to share steps and embeddings at {EFFICIENCY:.0%} of ideal speed (Goyal et al. 2017)"
"""What is said of a time that was scaled to several workers."""


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, and how that is known.

    Attributes:
        seconds: of the whole run; None where nothing is known.
        left: seconds of it that are still to be computed.
        checkpoint: seconds between two checkpoints.
        how: in words; of None, why.
    """

    seconds: float | None
    left: float
    checkpoint: float
    how: str


class Estimator:
    """Estimates runs, and remembers what it counted and measured.

    Args:
        measured: finished runs by shape.
        known: what is known of the data sets.
        teraflops: of the device that is to be used, assumed: then nothing is measured and ``measured`` not used.
    """

    def __init__(self, measured: Mapping[str, Sequence[Measured]], known: KnownData, teraflops: float | None) -> None:
        self.measured = {} if teraflops else measured
        self.known = known
        self.teraflops = teraflops
        self._works: dict[str, RunWork] = {}
        self._sizes: dict[str, int] = {}
        self._known_rates: dict[tuple[str, bool, int], Rates | None] = {}
        self._calibration = functools.cache(_calibration)

    def estimate(self, node: Node) -> Estimate:
        """How long the run takes on what its sweep gives it."""
        spec = node.spec
        if missing := self.known.unknown(spec):
            return Estimate(None, 0.0, 0.0, f"unknown: nothing is known of the data set {' and '.join(missing)} yet")
        seconds, how = self._from_runs(node) or self._from_flops(node)
        if seconds is None:
            return Estimate(None, 0.0, 0.0, how)
        steps, an_epoch = training_steps(spec, self._info(spec).train)
        left = seconds * (1 - min(node.step, steps) / steps)
        epoch = seconds * an_epoch / steps
        checkpoint = between_checkpoints(spec, epoch=epoch, epoch_steps=an_epoch, size=self._size(spec))
        return Estimate(seconds, left, checkpoint, how)

    def _from_runs(self, node: Node) -> tuple[float, str] | None:
        kind = "gpu" if node.launch.gpus else "cpu"
        runs = [
            run
            for run in self.measured.get(shape(node.spec), ())
            if run.kind == kind and (kind == "gpu" or run.threads == node.launch.cpus)
        ]
        if not runs:
            return None
        workers, images = node.launch.workers, self._info(node.spec).train
        length = _length(node.spec, images)
        together = [run for run in runs if run.workers == workers]
        alike = [run for run in together or runs if _length(run.spec, images) == length]
        asked = alike or together or runs
        seconds = [run.seconds for run in asked]
        if not (together and alike):
            rates = self._rates(node)
            own = self._seconds(node.spec, rates, workers)
            seconds = [run.seconds * own / self._seconds(run.spec, rates, run.workers) for run in asked]
        how = f"measured from {_many(len(asked), 'run')}" + ("" if alike else " of another length, scaled")
        if not together:
            how += f", scaled to {_many(workers, 'worker')}: {ASSUMED}"
        elif workers > 1:
            how += f" on {workers} workers"
        return statistics.median(seconds), f"{how} ({' and '.join(sorted({run.device for run in asked}))})"

    def _from_flops(self, node: Node) -> tuple[float | None, str]:
        rates, workers = self._rates(node), node.launch.workers
        if rates is None:
            return None, "unknown: no GPU here to measure, no run of this shape in the store; give --tflops"
        how = rates.how if workers == 1 else f"{rates.how}, shared by {workers} workers: {ASSUMED}"
        return self._seconds(node.spec, rates, workers), how

    def _rates(self, node: Node) -> Rates | None:
        if self.teraflops:
            return assumed(self.teraflops)
        key = (shape(node.spec), node.launch.gpus > 0, node.launch.cpus)
        if key not in self._known_rates:
            calibration, work = self._calibration(*key[1:]), self._work(node.spec).total
            self._known_rates[key] = calibration.rates(work, node.spec.precision) if calibration else None
        return self._known_rates[key]

    def _seconds(self, spec: RunSpec, rates: Rates | None, workers: int) -> float:
        """By FLOPs; to compare two runs of one shape, any rates do where none can be measured."""
        return self._work(spec).seconds(rates or assumed(1.0), workers)

    def _work(self, spec: RunSpec) -> RunWork:
        """Counted once for all runs of a shape."""
        key, info = shape(spec), self._info(spec)
        if key not in self._works:
            self._works[key] = count_run(spec, info, {name: self.known.infos[name] for name in spec.probe.also})
        steps, an_epoch = training_steps(spec, info.train)
        known = self._works[key]
        return replace(known, steps=steps, steps_per_epoch=an_epoch, evaluations=evaluations(spec, info.train))

    def _size(self, spec: RunSpec) -> int:
        """Bytes of a checkpoint, counted once for all runs of a shape."""
        key = shape(spec)
        if key not in self._sizes:
            self._sizes[key] = checkpoint_bytes(spec, self._info(spec))
        return self._sizes[key]

    def _info(self, spec: RunSpec) -> DataInfo:
        info = self.known.main(spec)
        assert info is not None, "asked for before it was known"
        return info


def _calibration(gpu: bool, threads: int) -> Calibration | None:
    if gpu and not torch.cuda.is_available():
        return None
    return Calibration(torch.device("cuda" if gpu else "cpu"), threads)


def _length(spec: RunSpec, images: int) -> tuple[int, int]:
    return training_steps(spec, images)[0], evaluations(spec, images)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
