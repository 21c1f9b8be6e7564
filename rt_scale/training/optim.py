"""Optimisers by name, and the schedules, clipping and freezing of their updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn

from rt_scale.spec.schedule import parse
from rt_scale.spec.training import OptimizerSpec


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that ``spec`` names, with torch's other defaults and fused kernels, which read memory once a step.

    Learning rate and weight decay are those of the first step; :class:`UpdateRules` changes them. Parameters without
    weight decay are a second group.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    decaying = [parameter for parameter in trainable if _decays(spec, parameter)]
    kept = [parameter for parameter in trainable if not _decays(spec, parameter)]
    groups: list[dict[str, Any]] = [{"params": decaying}] if decaying else []
    groups += [{"params": kept, "weight_decay": 0.0}] if kept else []
    lr, weight_decay = (parse(value).value(0, 1, 1) for value in (spec.lr, spec.weight_decay))
    given: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    match spec.name:
        case "adam":
            return torch.optim.Adam(groups, fused=True, **given)
        case "adamw":
            return torch.optim.AdamW(groups, fused=True, **given)
        case "sgd":
            # torch's fused kernel needs momentum buffers for all parameters or none; a frozen layer gets one later.
            fused = not spec.momentum
            return torch.optim.SGD(groups, momentum=spec.momentum, fused=fused, foreach=not fused, **given)
        case never:
            assert_never(never)


def _decays(spec: OptimizerSpec, parameter: Tensor) -> bool:
    return spec.decay_norm_and_bias or parameter.ndim > 1


class UpdateRules:
    """What happens between the gradient and the optimiser's step: schedules, clipping, frozen parameters.

    ``optimizer`` is made by :func:`build_optimizer` from the same ``spec``, for a run of ``steps`` optimiser steps;
    parameters in ``frozen`` are not updated in the first ``frozen_steps``.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        spec: OptimizerSpec,
        *,
        steps: int,
        steps_per_epoch: int,
        frozen: Sequence[nn.Parameter] = (),
        frozen_steps: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.lr, self.weight_decay = parse(spec.lr), parse(spec.weight_decay)
        self.decays = [_decays(spec, group["params"][0]) for group in optimizer.param_groups]
        self.clip = spec.clip
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.frozen, self.frozen_steps = frozen, frozen_steps

    def __call__(self, step: int, gradient_norm: Tensor) -> None:
        """Prepare the update after ``step`` steps; ``gradient_norm`` is the l2 norm, a scalar tensor. No host sync."""
        lr, weight_decay = (
            schedule.value(step, self.steps, self.steps_per_epoch) for schedule in (self.lr, self.weight_decay)
        )
        for group, decays in zip(self.optimizer.param_groups, self.decays, strict=True):
            group["lr"], group["weight_decay"] = lr, weight_decay if decays else 0.0
        if self.clip is not None:
            parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, self.clip, gradient_norm)
        if step < self.frozen_steps:
            for parameter in self.frozen:
                parameter.grad = None
