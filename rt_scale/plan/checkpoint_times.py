"""How often a run writes a checkpoint, and so how much of it an interruption costs."""

from __future__ import annotations

import math

from rt_scale.data.datasets.base import DataInfo
from rt_scale.experiments.context import CHECKPOINT_RATE
from rt_scale.experiments.options import Options
from rt_scale.plan.run_work import meta_network
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schedule import duration_steps
from rt_scale.spec.training import OptimizerSpec


def checkpoint_bytes(spec: RunSpec, info: DataInfo) -> int:
    """Size of a checkpoint, but for some kB: weights, those of a teacher that moves, and the optimiser's moments.

    Args:
        spec: the run.
        info: of the data set that it distils on.
    """
    network = meta_network(spec, info)
    weights: int = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    trained: int = sum(each.numel() * each.element_size() for each in network.parameters() if each.requires_grad)
    return weights * (2 if spec.teacher.moves else 1) + trained * _moments(spec.train.optimizer)


def _moments(optimizer: OptimizerSpec) -> int:
    """Numbers that the optimiser keeps of every parameter."""
    if optimizer.name == "sgd":
        return 1 if optimizer.momentum else 0
    return 2


def between_checkpoints(spec: RunSpec, *, epoch: float, epoch_steps: int, size: float) -> float:
    """Seconds between two checkpoints, by the rule of ``experiments.context.Context.checkpoint_due``.

    They are written at ends of epochs: where ``Options.checkpoint_seconds`` have passed since the last one, or the
    run is probed there and they do not follow one another faster than ``CHECKPOINT_RATE`` allows.

    Args:
        spec: the run.
        epoch: seconds of an epoch, > 0.
        epoch_steps: optimiser steps of an epoch.
        size: bytes of a checkpoint.
    """
    steps = duration_steps(spec.probe.every, epoch_steps) if spec.probe.every else spec.train.epochs * epoch_steps
    probed = steps // math.gcd(steps, epoch_steps)  # epochs from one that ends with a probing to the next
    asked = probed * max(1, math.ceil(size / CHECKPOINT_RATE / (probed * epoch)))
    usual = max(1, math.ceil(Options.checkpoint_seconds / epoch))
    return min(asked, usual, spec.train.epochs) * epoch
