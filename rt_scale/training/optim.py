"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import torch
from torch import nn

from rt_scale.spec.run import OptimizerSpec


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that ``spec`` names, over ``parameters``, with torch's other defaults.

    Fused kernels: one pass over parameters, gradients and moments a step instead of one an operation.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    match spec.name:
        case "adam":
            return torch.optim.Adam(trainable, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(trainable, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                trainable, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
            )
        case never:
            assert_never(never)
