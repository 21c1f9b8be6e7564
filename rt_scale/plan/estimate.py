"""How long a run takes: from finished runs of its shape if there are any, else from its FLOPs.

A run of less than ``SHORT`` seconds on a CPU is not dominated by FLOPs, so three epochs of its shape are timed instead
(``plan.measure``). After ``MOST_SPENT`` seconds no other shape is timed, and FLOP estimates are scaled by the median
ratio of timed to estimated seconds.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rt_scale.data.datasets.base import DataInfo
from rt_scale.data.loaders.choose import Choice, choose_loader
from rt_scale.data.loaders.ffcv import require_ffcv
from rt_scale.data.prepared import KnownData
from rt_scale.experiments.context import CHECKPOINT_RATE
from rt_scale.experiments.options import Options, free_memory
from rt_scale.plan.flops import EFFICIENCY, Rates, RunWork, checkpoint_bytes, count_run, evaluations, training_steps
from rt_scale.plan.history import Measured, shape
from rt_scale.plan.measure import EPOCHS, PROBINGS, Calibration, ShortRunTimes, assumed, time_short_run
from rt_scale.scheduler.job import Job
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schedule import duration_steps

ASSUMED = f"several are assumed to share steps and embeddings at {EFFICIENCY:.0%} of ideal speed (Goyal et al. 2017)"
"""Source of a time scaled to several workers."""
ALONE = "as runs alone: no packed one was measured"
"""Source of a time for batched runs that was measured for single ones."""

UNKNOWN = "unknown"

SHORT = 60.0
"""Seconds by FLOPs up to which a short run of the same shape is timed: longer runs are mostly FLOPs."""
MOST_COUNTED, MOST_SPENT = 2.0, 2.0
"""Most seconds of a short run by its FLOPs, and seconds in all after which no other short run is started."""
TIMED = "a short run of its kind timed just now (cpu)"
"""Source of a time from a short run."""


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, and how that is known.

    Attributes:
        seconds: of the whole run; for batched runs, its share of their process's; None if unknown.
        left: the part of ``seconds`` still to be computed.
        checkpoint: seconds between two checkpoints.
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
        data_dir: prepared data sets for short runs; None: no short run is timed.
    """

    def __init__(
        self,
        measured: Mapping[str, Sequence[Measured]],
        known: KnownData,
        teraflops: float | None,
        data_dir: Path | None = None,
    ) -> None:
        self.measured = {} if teraflops else measured
        self.known = known
        self.teraflops = teraflops
        self.data_dir = data_dir
        self._short_runs = _ShortRuns()
        self._shapes: dict[str, str] = {}
        self._works: dict[str, RunWork] = {}
        self._known_seconds: dict[tuple[object, ...], float] = {}
        self._sizes: dict[str, int] = {}
        self._known_rates: dict[tuple[str, bool, int], Rates | None] = {}
        self._calibration = functools.cache(_calibration)

    def estimate(self, job: Job, together: int = 1, step: int = 0) -> Estimate:
        """How long the run takes with the resources of its launch section.

        ``together``: size of its batch of runs, this one included; ``step``: of its newest checkpoint, else 0.
        """
        spec = job.spec
        if missing := self.known.unknown(spec):
            return Estimate(None, 0.0, 0.0, f"unknown: nothing is known of the data set {' and '.join(missing)} yet")
        seconds, how = self._from_runs(job, together) or self._as_alone(job, together)
        if seconds is None:
            return Estimate(None, 0.0, 0.0, how)
        steps, an_epoch = training_steps(spec, self._info(spec).train)
        left = seconds * (1 - min(step, steps) / steps)
        epoch = together * seconds * an_epoch / steps
        checkpoint = between_checkpoints(spec, epoch=epoch, epoch_steps=an_epoch, size=self._size(spec))
        return Estimate(seconds, left, checkpoint, how)

    def best_size(self, job: Job) -> int | None:
        """The batch size that ``launch.pack: auto`` measured to be best for runs of its shape, if any."""
        return max((run.best_pack for run in self._alike(job) if run.best_pack is not None), default=None)

    def _alike(self, job: Job) -> list[Measured]:
        """Measured runs of its shape on the same kind of device."""
        kind = "gpu" if job.launch.gpus else "cpu"
        return [
            run
            for run in self.measured.get(self._shape(job.spec), ())
            if run.kind == kind and (kind == "gpu" or run.execution.threads == job.launch.cpus)
        ]

    def _as_alone(self, job: Job, together: int) -> tuple[float | None, str]:
        """Assume that batched runs take as long as one after the other."""
        seconds, how = (self._from_runs(job, 1) if together > 1 else None) or self._from_flops(job)
        return seconds, how if seconds is None or together == 1 else f"{how}, {ALONE}"

    def _from_runs(self, job: Job, together: int) -> tuple[float, str] | None:
        runs = [run for run in self._alike(job) if (run.execution.pack > 1) == (together > 1)]
        runs = [run for run in runs if run.execution.pack == together] or runs
        if not runs:
            return None
        workers, images = job.launch.workers, self._info(job.spec).train
        length = _length(job.spec, images)
        as_many = [run for run in runs if run.execution.workers == workers]
        if _plugin(job.spec) and not as_many:
            return None
        alike = [run for run in as_many or runs if _length(run.spec, images) == length]
        asked = alike or as_many or runs
        seconds = [run.result.seconds / run.execution.pack for run in asked]
        if not (as_many and alike):
            rates = self._rates(job)
            own = self._seconds(job.spec, rates, workers)
            scales = [own / self._seconds(run.spec, rates, run.execution.workers) for run in asked]
            seconds = [one * scale for one, scale in zip(seconds, scales, strict=True)]
        how = f"measured from {_many(len(asked), 'run')}" + ("" if alike else " of another length, scaled")
        if together > 1:
            how += f", {' or '.join(str(pack) for pack in sorted({run.execution.pack for run in asked}))} to a process"
        if not as_many:
            how += f", scaled to {_many(workers, 'worker')}: {ASSUMED}"
        elif workers > 1:
            how += f" on {workers} workers"
        return statistics.median(seconds), f"{how} ({' and '.join(sorted({str(run.attempt.device) for run in asked}))})"

    def _from_flops(self, job: Job) -> tuple[float | None, str]:
        if plugin := _plugin(job.spec):
            return None, f"unknown: a plan does not run the plugin {plugin}; its first finished run tells"
        rates, workers = self._rates(job), job.launch.workers
        if rates is None:
            return None, "unknown: no GPU here to measure, no run of this shape in the store; give --tflops"
        counted = self._seconds(job.spec, rates, workers)
        if workers > 1:
            return counted, f"{rates.how}, shared by {workers} workers: {ASSUMED}"
        data_dir = self.data_dir
        if counted > SHORT or job.launch.gpus or data_dir is None:
            return counted, rates.how
        work, threads = self._work(job.spec), job.launch.cpus
        short = replace(work, steps=EPOCHS * work.steps_per_epoch, evaluations=PROBINGS).seconds(rates)
        key = (self._shape(job.spec), threads)
        found = self._short_runs.of(key, short, lambda: time_short_run(job.spec, data_dir, threads))
        if isinstance(found, ShortRunTimes):
            return found.seconds(work.steps / work.steps_per_epoch, work.evaluations), TIMED
        return counted * found, rates.how if found == 1 else f"{rates.how}, times {found:.2g} as short runs took"

    def _rates(self, job: Job) -> Rates | None:
        if _plugin(job.spec):
            return None
        if self.teraflops:
            return assumed(self.teraflops)
        key = (self._shape(job.spec), job.launch.gpus > 0, job.launch.cpus)
        if key not in self._known_rates:
            calibration = self._calibration(*key[1:])
            self._known_rates[key] = calibration.rates(job.spec, self._info(job.spec)) if calibration else None
        return self._known_rates[key]

    def _seconds(self, spec: RunSpec, rates: Rates | None, workers: int) -> float:
        """By FLOPs, of plugins by steps; without measured rates only ratios between runs of one shape mean anything."""
        if _plugin(spec):
            return float(training_steps(spec, self._info(spec).train)[0])
        key = self._shape(spec), _length(spec, self._info(spec).train), rates, workers
        if key not in self._known_seconds:
            self._known_seconds[key] = self._work(spec).seconds(rates or assumed(1.0), workers)
        return self._known_seconds[key]

    def _work(self, spec: RunSpec) -> RunWork:
        """The run's work, counted once per shape."""
        key, info = self._shape(spec), self._info(spec)
        if key not in self._works:
            self._works[key] = count_run(spec, info, {name: self.known.infos[name] for name in spec.probe.also})
        steps, an_epoch = training_steps(spec, info.train)
        known = self._works[key]
        return replace(known, steps=steps, steps_per_epoch=an_epoch, evaluations=evaluations(spec, info.train))

    def _size(self, spec: RunSpec) -> int:
        """Bytes of a checkpoint, counted once per shape; 0 for an encoder that is a plugin."""
        key = self._shape(spec)
        if key not in self._sizes:
            self._sizes[key] = 0 if spec.encoder.plugin else checkpoint_bytes(spec, self._info(spec))
        return self._sizes[key]

    def _shape(self, spec: RunSpec) -> str:
        if spec.name not in self._shapes:
            self._shapes[spec.name] = shape(spec)
        return self._shapes[spec.name]

    def _info(self, spec: RunSpec) -> DataInfo:
        info = self.known.main(spec)
        assert info is not None, "asked for before it was known"
        return info


class _ShortRuns:
    """Times short runs, each shape once, until they have taken ``MOST_SPENT`` seconds."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], ShortRunTimes | None] = {}
        self._excess: list[float] = []
        self._spent = 0.0

    def of(
        self, key: tuple[str, int], counted: float, time_short_run: Callable[[], ShortRunTimes | None]
    ) -> ShortRunTimes | float:
        """The times of a short run; if it is not timed, the median ratio of timed to counted seconds of the others.

        ``key``: shape and threads; ``counted``: seconds by its FLOPs; ``time_short_run``: executes it.
        """
        if key not in self._found:
            if counted > MOST_COUNTED or self._spent > MOST_SPENT:
                return statistics.median(self._excess) if self._excess else 1.0
            if not self._found:
                time_short_run()  # warm-up: the first run in a process takes longer
            found = self._found[key] = time_short_run()
            if found is not None:
                self._spent += found.total
                self._excess.append(found.total / counted)
        return self._found[key] or 1.0


def _calibration(gpu: bool, threads: int) -> Calibration | None:
    if gpu and not torch.cuda.is_available():
        return None
    return Calibration(torch.device("cuda" if gpu else "cpu"), threads)


def _plugin(spec: RunSpec) -> str:
    """A plugin whose cost is unknown, if the run has one."""
    return min(spec.plugins.keys() - {spec.data.plugin}, default="")


def _length(spec: RunSpec, images: int) -> tuple[int, int]:
    return training_steps(spec, images)[0], evaluations(spec, images)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def between_checkpoints(spec: RunSpec, *, epoch: float, epoch_steps: int, size: float) -> float:
    """Seconds between two checkpoints, by the rule of ``experiments.context.Context.checkpoint_due``.

    They are written at the end of an epoch if ``Options.checkpoint_seconds`` have passed since the last one, or if the
    run is probed there and ``CHECKPOINT_RATE`` allows.

    ``epoch``: seconds per epoch, > 0; ``epoch_steps``: optimiser steps per epoch; ``size``: bytes of a checkpoint.
    """
    steps = duration_steps(spec.probe.every, epoch_steps) if spec.probe.every else spec.train.epochs * epoch_steps
    probed = steps // math.gcd(steps, epoch_steps)  # epochs from one that ends with a probing to the next
    asked = probed * max(1, math.ceil(size / CHECKPOINT_RATE / (probed * epoch)))
    usual = max(1, math.ceil(Options.checkpoint_seconds / epoch))
    return min(asked, usual, spec.train.epochs) * epoch


def loader_chooser(known: KnownData) -> Callable[[Job], Choice]:
    """A function from a job to the data loader that its run would choose here and now, and why."""
    free = functools.cache(free_memory)  # cached: it changes constantly, and with it the reason
    return lambda job: _loader(job, known, free)


def _loader(job: Job, known: KnownData, free: Callable[[torch.device], int]) -> Choice:
    """What ``experiments.options.resolve`` would choose here and now."""
    spec, info = job.spec, known.main(job.spec)
    if info is None:
        return Choice(UNKNOWN, f"nothing is known of the data set {spec.data.name} yet")
    if job.launch.gpus and not torch.cuda.is_available():
        return Choice(UNKNOWN, "there is no GPU here; it is chosen where the run starts")
    # Loaders keep the prepared images; resizing comes later.
    size = 0 if spec.data.name == GAUSSIAN else (spec.data.samples or info.train) * info.channels * info.size**2
    device = torch.device("cuda" if job.launch.gpus else "cpu")
    choice = choose_loader(job.launch.loader, size, device, free)
    if choice.name == "ffcv":
        try:
            require_ffcv()
        except InputError as error:
            return Choice("ffcv", f"{choice.reason}, which will be refused here: {error}")
    return choice
