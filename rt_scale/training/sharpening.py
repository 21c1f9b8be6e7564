"""Centring and temperature: what is done to logits before the objective (paper, appendix E.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from rt_scale.spec.schedule import parse
from rt_scale.training.dist import ALONE, Group


class Sharpening:
    """(logits - centre) / temperature, with a running mean of the logits as the centre.

    The centre starts at 0 and is moved after it was used, c <- mu c + (1 - mu) mean(logits), over all images and
    views of the batch (Caron et al. 2021, equation 4). No gradient flows through it.

    Args:
        temperature: a number or a schedule, > 0.
        center: momentum mu, a number or a schedule in [0, 1]; None: no centre.
        steps: optimiser steps of the run.
        steps_per_epoch: optimiser steps an epoch.
        group: the ranks whose images and views the mean is over.

    Attributes:
        centre: [m], in the logits' dtype; None before the first batch and without centring.
    """

    def __init__(
        self,
        temperature: float | str = 1.0,
        center: float | str | None = None,
        *,
        steps: int = 1,
        steps_per_epoch: int = 1,
        group: Group = ALONE,
    ) -> None:
        self.temperature = parse(temperature)
        self.momentum = None if center is None else parse(center)
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.group = group
        self.centre: Tensor | None = None

    def __call__(self, logits: Tensor, step: int) -> Tensor:
        """Logits [rows, m] as the objective takes them at optimiser step ``step`` (from 0); moves the centre."""
        sharpened = logits
        if self.momentum is not None:
            if self.centre is None:
                self.centre = torch.zeros_like(logits[0], requires_grad=False)
            sharpened = logits - self.centre
            momentum = self.momentum.value(step, self.steps, self.steps_per_epoch)
            self.centre = momentum * self.centre + (1 - momentum) * self.group.mean_of_rows(logits)
        temperature = self.temperature.value(step, self.steps, self.steps_per_epoch)
        return sharpened if temperature == 1 else sharpened / temperature


AS_THEY_ARE = {"teacher": Sharpening(), "student": Sharpening()}
"""Logits of both networks are left alone: the paper's choice."""
