"""How long a run takes: from finished runs of its shape in the store if there are any, else from its FLOPs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError

from rt_scale.data.prepared import KnownData
from rt_scale.experiments.base import Cost, Length, experiment_of
from rt_scale.experiments.flops import EFFICIENCY, Rates, RunWork, assumed
from rt_scale.experiments.options import Options
from rt_scale.plan.measure import measured_rates
from rt_scale.scheduler.job import Job
from rt_scale.spec.errors import RunError, counted
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import AttemptRecord, Execution, RunResult
from rt_scale.store.store import Store

ASSUMED = f"several are assumed to share steps and embeddings at {EFFICIENCY:.0%} of ideal speed (Goyal et al. 2017)"
"""Source of a time scaled to several workers."""
ALONE = "as runs alone: no packed one was measured"
"""Source of a time for batched runs that was measured for single ones."""
MOST = 2000
"""Most run directories that are read; names are hashes, so the first ones are a fair sample."""


@dataclass(frozen=True)
class Measured:
    """A finished run; for batched runs, the result's ``seconds`` are those of the whole batch."""

    spec: RunSpec
    result: RunResult
    execution: Execution
    attempt: AttemptRecord

    @property
    def kind(self) -> str:
        """Kind of its device: ``cpu`` or ``gpu``."""
        return "cpu" if self.execution.device == "cpu" else "gpu"

    @property
    def best_pack(self) -> int | None:
        """The batch size that ``launch.pack: auto`` measured to be best, if it did."""
        return self.attempt.packing.size if self.attempt.packing.seconds else None


def measured_runs(store: Store, shapes: Collection[str]) -> dict[str, list[Measured]]:
    """Finished runs in the store by shape, limited to ``shapes``; skips unreadable ones."""
    found: dict[str, list[Measured]] = {}
    for number, run_dir in enumerate(store if shapes else ()):
        if number >= MOST:
            break
        try:
            result, record = run_dir.result(), run_dir.record()
            if result is None or record is None or not record.attempts:
                continue
            spec = RunSpec.model_validate(run_dir.spec())
        except (ValidationError, RunError, OSError):
            continue  # another version's, or being removed
        if (key := spec.shape) in shapes:
            found.setdefault(key, []).append(Measured(spec, result, record.execution, record.attempts[-1]))
    return found


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, and how that is known.

    Attributes:
        seconds: of the whole run; for batched runs, its share of their process's; None if unknown.
        left: the part of ``seconds`` still to be computed.
        checkpoint: most seconds between two checkpoints.
        how: source of ``seconds``, or why it is unknown.
    """

    seconds: float | None
    left: float
    checkpoint: float
    how: str


class Estimator:
    """Estimates runs, and caches what it counted and measured.

    Args:
        measured: finished runs by shape.
        known: the data sets.
        teraflops: assumed TFLOP/s of the device; if given, nothing is measured and ``measured`` is not used.
        steps: name of a run -> step of its newest checkpoint.
    """

    def __init__(
        self,
        measured: Mapping[str, Sequence[Measured]],
        known: KnownData,
        teraflops: float | None = None,
        steps: Mapping[str, int] | None = None,
    ) -> None:
        self._measured = {} if teraflops else measured
        self._known, self._teraflops, self._steps = known, teraflops, steps or {}
        self._works: dict[str, RunWork] = {}
        self._known_rates: dict[tuple[str, bool, int], Rates] = {}
        self._known_seconds: dict[tuple[object, ...], tuple[float | None, str]] = {}

    def estimate(self, job: Job, together: int = 1) -> Estimate:
        """How long the run takes with the resources of its launch section.

        ``together``: size of its batch of runs, this one included.
        """
        spec = job.spec
        if missing := self._known.unknown(spec):
            return Estimate(None, 0.0, 0.0, f"unknown: nothing is known of the data set {' and '.join(missing)} yet")
        length = self._cost(spec).length
        key = (spec.shape, length, job.launch, together)
        if key not in self._known_seconds:
            self._known_seconds[key] = self._seconds(job, together)
        seconds, how = self._known_seconds[key]
        if seconds is None:
            return Estimate(None, 0.0, 0.0, how)
        steps = max(1, length.steps)  # a run that stops at its start has none
        done = max(0, self._steps.get(job.name, 0) - length.before)
        left = seconds * (1 - min(done, length.steps) / steps)
        epoch = together * seconds * length.epoch / steps
        epochs = min(math.ceil(Options.checkpoint_seconds / epoch), math.ceil(length.steps / length.epoch))
        return Estimate(seconds, left, epochs * epoch, how)

    def best_size(self, job: Job) -> int | None:
        """The batch size that ``launch.pack: auto`` measured to be best for runs of its shape, if any."""
        return max((run.best_pack for run in self._alike(job) if run.best_pack is not None), default=None)

    def _alike(self, job: Job) -> list[Measured]:
        """Measured runs of its shape on the same kind of device."""
        kind = "gpu" if job.launch.gpus else "cpu"
        return [
            run
            for run in self._measured.get(job.spec.shape, ())
            if run.kind == kind and (kind == "gpu" or run.execution.threads == job.launch.cpus)
        ]

    def _seconds(self, job: Job, together: int) -> tuple[float | None, str]:
        """Seconds and their source; batched runs of which none was measured take as long as one after the other."""
        if found := self._from_runs(job, together):
            return found
        if together == 1:
            return self._from_flops(job)
        seconds, how = self._seconds(job, 1)
        return seconds, how if seconds is None else f"{how}, {ALONE}"

    def _from_runs(self, job: Job, together: int) -> tuple[float, str] | None:
        """From those of the measured runs that are most like it in batch size, then in workers, then in length."""
        workers, cost = job.launch.workers, self._cost(job.spec)

        def closeness(run: Measured) -> tuple[bool, bool, bool]:
            done = run.execution
            return done.pack == together, done.workers == workers, self._cost(run.spec).length == cost.length

        runs = [run for run in self._alike(job) if (run.execution.pack > 1) == (together > 1)]
        if not runs:
            return None
        closest = max(map(closeness, runs))
        _, as_many, as_long = closest
        if cost.work is None and not as_many:
            return None
        asked = [run for run in runs if closeness(run) == closest]
        seconds = [run.result.seconds / run.execution.pack for run in asked]
        if not (as_many and as_long):
            own = self._by_flops(job, cost.length, workers)
            theirs = (self._by_flops(job, self._cost(run.spec).length, run.execution.workers) for run in asked)
            seconds = [one * own / other for one, other in zip(seconds, theirs, strict=True)]
        how = f"measured from {counted(len(asked), 'run')}" + ("" if as_long else " of another length, scaled")
        if together > 1:
            how += f", {' or '.join(str(pack) for pack in sorted({run.execution.pack for run in asked}))} to a process"
        if not as_many:
            how += f", scaled to {counted(workers, 'worker')}: {ASSUMED}"
        elif workers > 1:
            how += f" on {workers} workers"
        return statistics.median(seconds), f"{how} ({' and '.join(sorted({str(run.attempt.device) for run in asked}))})"

    def _from_flops(self, job: Job) -> tuple[float | None, str]:
        if (cost := self._cost(job.spec)).work is None:
            return None, f"unknown: {cost.unknown}"
        rates, workers = self._rates(job), job.launch.workers
        if rates is None:
            return None, "unknown: no GPU here to measure, no run of this shape in the store; give --tflops"
        shared = f", shared by {workers} workers: {ASSUMED}" if workers > 1 else ""
        return self._by_flops(job, cost.length, workers), f"{rates.how}{shared}"

    def _by_flops(self, job: Job, length: Length, workers: int) -> float:
        """Seconds of a run of that length; without measured rates or work only ratios are meaningful."""
        shape, work = job.spec.shape, self._cost(job.spec).work
        if work is None:
            return float(max(1, length.steps))
        if shape not in self._works:
            self._works[shape] = work()
        return self._works[shape].seconds(self._rates(job) or assumed(1.0), length, workers)

    def _rates(self, job: Job) -> Rates | None:
        if self._teraflops:
            return assumed(self._teraflops)
        gpu, threads = job.launch.gpus > 0, job.launch.cpus
        if gpu and not torch.cuda.is_available():
            return None
        key = (job.spec.shape, gpu, threads)
        if key not in self._known_rates:
            device = torch.device("cuda" if gpu else "cpu")
            precision = next(iter(job.spec.precisions), "float32")
            self._known_rates[key] = measured_rates(self._cost(job.spec).network, precision, device, threads)
        return self._known_rates[key]

    def _cost(self, spec: RunSpec) -> Cost:
        return experiment_of(spec).cost(spec, self._known)
