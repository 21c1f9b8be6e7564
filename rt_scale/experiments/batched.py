"""Several runs trained as one batched network in this process, each in its own directory."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence

import torch

from rt_scale.data.loaders.choose import training_loader, training_subset
from rt_scale.experiments.base import check, experiment_of
from rt_scale.experiments.check import constant_targets
from rt_scale.experiments.objectives import build_objective, build_sharpenings, build_views, clean_inputs
from rt_scale.experiments.options import Options, find_device, resolve
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network, build_others, build_pair, to_device
from rt_scale.spec.batching import batch_problem, same_images
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import TrainingSpec, training
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import stop_check
from rt_scale.store.results import BatchSize, RunResult
from rt_scale.system.machine import allowed_cores
from rt_scale.system.memory import keep_freed_memory
from rt_scale.training.accelerate import accelerated
from rt_scale.training.batched import BatchedNetwork, train_together
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Targets
from rt_scale.training.loop import Gradients, Step
from rt_scale.training.optim import build_optimizer
from rt_scale.training.precision import parameter_dtype, set_precision

WARM_UP, TIMED = 2, 5
"""Steps before the timed ones, and timed steps; the fastest counts, since other processes share the machine."""
PAYS = 1.1
"""Least speed-up of a student's step for batching to be used."""
NEAR = 1.05
"""The smallest size within this factor of the fastest step is chosen: its runs end sooner."""
WORSE = 1.25
"""A size slower than the fastest by this factor ends the search for larger ones."""


def measured_batch_size(spec: TrainingSpec, options: Options, most: int) -> BatchSize:
    """The number of students, a power of two up to ``most``, with the least time a student's step.

    A step is views, teacher targets, forward and backward pass and optimiser; all students see the same images. Nothing
    is written to run directories. InputError if the run cannot be executed here.
    """
    seconds: dict[int, float] = {}
    end = ""
    with keep_freed_memory():
        bench = Bench(spec, options)
        for size in [2**power for power in range(most.bit_length())]:
            try:
                seconds[size] = bench.seconds(size) / size
            except (MemoryError, RuntimeError) as error:
                if not (isinstance(error, MemoryError) or "memory" in str(error)) or size == 1:
                    raise
                end = f"; {size} do not fit into memory"
                break
            if seconds[size] > WORSE * min(seconds.values()):
                break
    best = min(size for size, value in seconds.items() if value <= NEAR * min(seconds.values()))
    gain = seconds[1] / seconds[best]
    measured = ", ".join(f"{size}: {1000 * value:.3g} ms" for size, value in seconds.items()) + end
    if gain < PAYS:
        return BatchSize(
            size=1,
            reason=f"batching does not pay here (a student's step by students together: {measured})",
            seconds=seconds,
        )
    return BatchSize(
        size=best, reason=f"{gain:.2f} times as fast as alone (a student's step: {measured})", seconds=seconds
    )


class Bench:
    """A batch and students for timing the steps of runs of one shape."""

    def __init__(self, spec: TrainingSpec, options: Options) -> None:
        self.spec, self.check_stop = spec, stop_check(options.stop)
        data = check(spec, options.data_dir, self.check_stop)
        assert data is not None
        self.data = data.main
        self.execution = resolve(spec, experiment_of(spec).needs(spec, data), options, None)
        torch.set_num_threads(self.execution.threads)
        set_precision(spec.precision)
        self.subset = training_subset(spec, self.data)
        # "map": the bench needs one batch, not the whole set in memory.
        self.device, dtype = torch.device(self.execution.device), parameter_dtype(spec.precision)
        self.loader = training_loader(spec, self.data, "map", self.device, self.subset, dtype=dtype)
        self.batch = next(self.loader.epoch(0))

    def seconds(self, size: int) -> float:
        """Time of one step of ``size`` students together."""
        step = self.step(size)
        times: list[float] = []
        for _ in range(WARM_UP + TIMED):
            self.check_stop()
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return min(times[WARM_UP:])

    def step(self, size: int) -> Callable[[], None]:
        """A function that trains ``size`` students by one step, and returns when the device has finished it."""
        steps = self.steps(size)
        optimizers = [build_optimizer(self.spec.train.optimizer, step.model.parameters()) for step in steps]
        batched = BatchedNetwork([step.model for step in steps], same_images=True)  # type: ignore[misc]

        def move() -> None:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            for measured in batched.gradients(steps):
                if isinstance(measured, Exception):
                    raise measured
            for optimizer in optimizers:
                optimizer.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return move

    def steps(self, size: int) -> list[Step]:
        """A step of each of ``size`` equal students; a single one is accelerated as in a run alone."""
        spec, info, execution = self.spec, self.data.info, self.execution
        dtype, layout = parameter_dtype(spec.precision), execution.channels_last
        images = info.channels, spec.data.size or info.size
        teacher, student, *others = (
            to_device(network, self.device, dtype, channels_last=layout)
            for network in (*build_pair(spec, *images), *build_others(spec, *images))
        )

        def of_teacher(network: Network) -> Targets:
            if constant_targets(spec) and execution.cache_teacher:
                # A cache of zeros, computed from no image: looking them up takes as long.
                return CachedTargets(network, (), self.loader.samples, clean_inputs(spec, info, layout))
            return ComputedTargets(network, frozen=spec.teacher.update == "none")

        targets = [of_teacher(each) for each in (teacher, *others)]
        views, epoch = build_views(spec, info, layout, self.loader), self.loader.steps
        made = []
        for _ in range(size):
            sharpenings = build_sharpenings(spec, steps=epoch, steps_per_epoch=epoch)
            objective = build_objective(spec, self.data, self.subset, views, lambda: targets, sharpenings, self.device)
            own = copy.deepcopy(student)
            if size == 1:  # accelerate the copy: a compiled or graphed pass is bound to one network's weights
                own = accelerated(own, spec.train.batch_size, execution.accelerate)
            made.append(Step(own, objective, self.batch, 0))
        return made


def run_batched(
    specs: Sequence[RunSpec],
    options: Sequence[Options],
    ended: Callable[[int, RunResult | BaseException], None] = lambda number, outcome: None,
) -> list[RunResult | BaseException]:
    """Train ``specs`` together; each result equals, to rounding, that of :func:`rt_scale.experiments.runner.run`.

    Every run has its own directory, lease, observer, probes and checkpoints. When one ends, diverges or is asked to
    stop, the others continue. Each ``environment.json`` records how many train together.

    Args:
        specs: runs that ``spec.batching.batch_problem`` accepts; InputError otherwise.
        options: one for each run, all with the same device and threads, and one process.
        ended: called in this thread with the position of an ended run, and its result or exception.

    Returns the result of each run, or the Exception or Stopped that ended it.
    """
    if reason := batch_problem(specs) if len(specs) > 1 else "":
        raise InputError(f"These {len(specs)} runs cannot train as one batched network: {reason}.")
    if any(each.group.world > 1 for each in options):
        raise InputError("Runs of several workers cannot train as one batched network; give them 1 worker.")

    def one(spec: RunSpec, own: Options) -> Callable[[Gradients], RunResult]:
        batching = own.batching.model_copy(update={"size": len(specs)})
        return lambda gradients: run(spec, dataclasses.replace(own, batching=batching, gradients=gradients))

    # This thread computes the common pass, with the runs' number of CPU threads and on their device.
    torch.set_num_threads(options[0].threads or allowed_cores())
    find_device(options[0].device)
    runs = [one(spec, own) for spec, own in zip(specs, options, strict=True)]
    return train_together(runs, same_images=same_images(specs), ended=ended)


def choose_batch_size(specs: Sequence[RunSpec], options: Options, most: int | None) -> BatchSize:
    """How many of ``specs``, runs of one shape, to train together: ``most`` of them, or as many as measured (None)."""
    if reason := batch_problem(specs):
        return BatchSize(size=1, reason=f"cannot be batched: {reason}")
    if most is not None:
        return BatchSize(size=min(most, len(specs)), reason=f"launch.pack is {most}")
    return measured_batch_size(training(specs[0]), options, len(specs))
