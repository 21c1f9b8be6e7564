"""How long a run takes: from runs of its shape where there are any, else from its FLOPs.

Where by those a run takes seconds on a CPU, what is not FLOPs counts: a run of three epochs of its shape is executed
and timed (``plan.short_run``). Those take a few seconds of a plan; further shapes are counted, times what the others
took more than was counted.

The student's pass is counted as it is issued from Python; CUDA graphs and compiling save the part of that which the
GPU waits for (``experiments.student_pass``).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rt_scale.data.datasets.base import DataInfo
from rt_scale.data.prepared import KnownData
from rt_scale.plan.checkpoint_times import between_checkpoints, checkpoint_bytes
from rt_scale.plan.history import Measured, shape
from rt_scale.plan.queue import Node, evaluations, training_steps
from rt_scale.plan.rates import Calibration, Rates, assumed
from rt_scale.plan.run_work import EFFICIENCY, RunWork, count_run
from rt_scale.plan.short_run import EPOCHS, PROBINGS, ShortRunTimes, time_short_run
from rt_scale.spec.run import RunSpec

ASSUMED = f"several are assumed to share steps and embeddings at {EFFICIENCY:.0%} of ideal speed (Goyal et al. 2017)"
"""What is said of a time that was scaled to several workers."""
ALONE = "as runs alone: no packed one was measured"
"""What is said of the time of packed runs that is known of others alone."""


SHORT = 60.0
"""Seconds of a run by its FLOPs up to which a short run of its kind is timed: longer ones are mostly FLOPs."""
MOST_COUNTED, MOST_SPENT = 2.0, 2.0
"""Seconds that a short run may take by its FLOPs, and after how many of all of them no other is begun."""
TIMED = "a short run of its kind timed just now (cpu)"
"""What is said of such times."""


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, and how that is known.

    Attributes:
        seconds: of the whole run; of packed ones, its share of their process's; None where nothing is known.
        left: seconds of those that are still to be computed.
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
        data_dir: where prepared data sets are, for short runs that are timed; None: none is.
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
        self._works: dict[str, RunWork] = {}
        self._sizes: dict[str, int] = {}
        self._known_rates: dict[tuple[str, bool, int], Rates | None] = {}
        self._calibration = functools.cache(_calibration)

    def estimate(self, node: Node, together: int = 1) -> Estimate:
        """How long the run takes on what its sweep gives it.

        Args:
            node: the run.
            together: runs that one process trains as one batched network, this one included.
        """
        spec = node.spec
        if missing := self.known.unknown(spec):
            return Estimate(None, 0.0, 0.0, f"unknown: nothing is known of the data set {' and '.join(missing)} yet")
        seconds, how = self._from_runs(node, together) or self._as_alone(node, together)
        if seconds is None:
            return Estimate(None, 0.0, 0.0, how)
        steps, an_epoch = training_steps(spec, self._info(spec).train)
        left = seconds * (1 - min(node.step, steps) / steps)
        epoch = together * seconds * an_epoch / steps
        checkpoint = between_checkpoints(spec, epoch=epoch, epoch_steps=an_epoch, size=self._size(spec))
        return Estimate(seconds, left, checkpoint, how)

    def best_pack(self, node: Node) -> int | None:
        """As many together as ``launch.pack: auto`` found to be best for runs of its shape; None: it measured none."""
        return max((run.best_pack for run in self._alike(node) if run.best_pack is not None), default=None)

    def _alike(self, node: Node) -> list[Measured]:
        """Measured runs of its shape on such a device."""
        kind = "gpu" if node.launch.gpus else "cpu"
        return [
            run
            for run in self.measured.get(shape(node.spec), ())
            if run.kind == kind and (kind == "gpu" or run.execution.threads == node.launch.cpus)
        ]

    def _as_alone(self, node: Node, together: int) -> tuple[float | None, str]:
        """Packed runs take as long as one after the other, where nothing else is known."""
        seconds, how = (self._from_runs(node, 1) if together > 1 else None) or self._from_flops(node)
        return seconds, how if seconds is None or together == 1 else f"{how}, {ALONE}"

    def _from_runs(self, node: Node, together: int) -> tuple[float, str] | None:
        runs = [run for run in self._alike(node) if (run.execution.pack > 1) == (together > 1)]
        runs = [run for run in runs if run.execution.pack == together] or runs
        if not runs:
            return None
        workers, images = node.launch.workers, self._info(node.spec).train
        length = _length(node.spec, images)
        as_many = [run for run in runs if run.execution.workers == workers]
        alike = [run for run in as_many or runs if _length(run.spec, images) == length]
        asked = alike or as_many or runs
        seconds = [run.result.seconds / run.execution.pack for run in asked]
        if not (as_many and alike):
            rates = self._rates(node)
            own = self._seconds(node.spec, rates, workers)
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

    def _from_flops(self, node: Node) -> tuple[float | None, str]:
        rates, workers = self._rates(node), node.launch.workers
        if rates is None:
            return None, "unknown: no GPU here to measure, no run of this shape in the store; give --tflops"
        counted = self._seconds(node.spec, rates, workers)
        if workers > 1:
            return counted, f"{rates.how}, shared by {workers} workers: {ASSUMED}"
        data_dir = self.data_dir
        if counted > SHORT or node.launch.gpus or data_dir is None:
            return counted, rates.how
        work = self._work(node.spec)
        short = work.seconds_of(rates, EPOCHS * work.steps_per_epoch, PROBINGS)
        key = (shape(node.spec), node.launch.cpus)
        found = self._short_runs.of(key, short, lambda: time_short_run(node.spec, data_dir, node.launch.cpus))
        if isinstance(found, ShortRunTimes):
            return found.seconds(work.steps, work.steps_per_epoch, work.evaluations), TIMED
        return counted * found, rates.how if found == 1 else f"{rates.how}, times {found:.2g} as short runs took"

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


class _ShortRuns:
    """Short runs that were timed, each shape once, until they took ``MOST_SPENT``."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], ShortRunTimes | None] = {}
        self._excess: list[float] = []
        self._spent = 0.0

    def of(
        self, key: tuple[str, int], counted: float, time_short_run: Callable[[], ShortRunTimes | None]
    ) -> ShortRunTimes | float:
        """The short run of its shape; where there is none, by how much others exceeded what is counted of them.

        Args:
            key: shape and threads.
            counted: seconds of the short run by its FLOPs.
            time_short_run: executes it.
        """
        if key not in self._found:
            if counted > MOST_COUNTED or self._spent > MOST_SPENT:
                return statistics.median(self._excess) if self._excess else 1.0
            if not self._found:
                time_short_run()  # what a process does for the first time takes longer
            found = self._found[key] = time_short_run()
            if found is not None:
                self._spent += found.total
                self._excess.append(found.total / counted)
        return self._found[key] or 1.0


def _calibration(gpu: bool, threads: int) -> Calibration | None:
    if gpu and not torch.cuda.is_available():
        return None
    return Calibration(torch.device("cuda" if gpu else "cpu"), threads)


def _length(spec: RunSpec, images: int) -> tuple[int, int]:
    return training_steps(spec, images)[0], evaluations(spec, images)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
