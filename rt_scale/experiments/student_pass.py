"""How a run computes its student's pass over a whole batch, decided once on its device."""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.known import NoiseSet
from rt_scale.data.prepared import Prepared
from rt_scale.experiments.check import training_samples
from rt_scale.experiments.objectives import build_views
from rt_scale.experiments.options import Options, ResolvedOptions
from rt_scale.models.networks import Network, build_pair, to_device
from rt_scale.spec.batching import alone_because, batch_key
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import Execution
from rt_scale.training.accelerate.choice import COMPILED, EAGER, WAYS, choose, try_out
from rt_scale.training.distillation import parameter_dtype

Decision = tuple[str, str]
"""What was chosen, and why."""

_DECIDED: dict[Hashable, Decision] = {}


def once(key: Hashable, decide: Callable[[], Decision]) -> Decision:
    """What ``decide`` says, which is asked once in this process for equal keys."""
    if key not in _DECIDED:
        _DECIDED[key] = decide()
    return _DECIDED[key]


def forget() -> None:
    """Everything is asked again."""
    _DECIDED.clear()


def decided(
    spec: RunSpec,
    data: Prepared | NoiseSet,
    execution: ResolvedOptions,
    options: Options,
    earlier: Execution | None,
) -> ResolvedOptions:
    """``execution`` with that choice made, in the precision that is set.

    Args:
        spec: the run.
        data: the data set that it distils on.
        execution: how the rest is done.
        options: whether it is asked to be compiled, or not to be, and with how many others it is trained.
        earlier: the record of this run's first attempt, or None: its choice is kept where it can be gone, so that a
            resumed run's numbers are those of an undisturbed one. Where there was no choice yet, eager was it.
    """
    name, reason = _chosen(spec, data, execution, options, earlier.student_pass if earlier else None)
    return dataclasses.replace(execution, student_pass=name, student_pass_reason=reason)


def dressed(student: Network, batch_size: int, execution: ResolvedOptions) -> Network:
    """``student`` as it is trained: it, or one that shares its modules and computes whole batches the chosen way."""
    return WAYS[execution.student_pass](student, batch_size)


def _chosen(
    spec: RunSpec, data: Prepared | NoiseSet, execution: ResolvedOptions, options: Options, earlier: str | None
) -> Decision:
    if execution.workers > 1 or execution.pack > 1:
        return EAGER, "this student is not computed alone"
    if earlier in (EAGER, COMPILED):
        return earlier, "this run began with it"
    if earlier is None and options.compile:
        return COMPILED, "it was asked for"
    if execution.device.type != "cuda":
        return EAGER, "graphs are for NVIDIA GPUs, and a CPU's kernels are not faster compiled"
    samples, batch_size = training_samples(spec, data), spec.train.batch_size
    if samples < batch_size:
        return EAGER, "no batch is whole"
    # At alpha = 0 a student is its teacher bit for bit only by the same kernels.
    compiling = options.compile is None and not alone_because(spec)
    asked = {"steps": spec.train.epochs * math.ceil(samples / batch_size), "compiling": compiling, "earlier": earlier}
    return once(
        ("student_pass", batch_key(spec), str(execution.device), execution.channels_last, *asked.values()),
        lambda: _tried(spec, data.info, execution, asked),
    )


def _tried(spec: RunSpec, info: DataInfo, execution: ResolvedOptions, asked: Mapping[str, Any]) -> Decision:
    """The choice for networks of that shape, on a network and views of their own."""
    pair = build_pair(spec, info.channels, spec.data.size or info.size)
    student = to_device(
        pair.student, execution.device, parameter_dtype(spec.precision), channels_last=execution.channels_last
    )
    views = example_views(spec, info, execution)
    trial = functools.partial(try_out, network=student, views=views, precision=spec.precision)
    try:
        return choose(trial, spec.precision, **asked)
    finally:
        gc.collect()  # what a compiler or a failed capture left in cycles
        torch.cuda.empty_cache()  # of a graph that is gone


def example_views(spec: RunSpec, info: DataInfo, execution: ResolvedOptions) -> list[Tensor]:
    """Noise in the shapes, dtype and layout of a whole batch's views, V times [B, C, S, S]."""
    device = execution.device
    blank = torch.zeros((spec.train.batch_size, info.size, info.size, info.channels), dtype=torch.uint8, device=device)
    generator = torch.Generator(device).manual_seed(0)
    shapes = build_views(spec, info, execution.channels_last, 1)(blank, 0)
    return [torch.empty_like(view).normal_(generator=generator) for view in shapes]
