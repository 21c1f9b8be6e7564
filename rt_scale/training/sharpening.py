"""Centring and temperature: what is done to logits before the objective (paper, appendix E.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from rt_scale.losses.chunked import Side
from rt_scale.models.projector import Outputs
from rt_scale.spec.schedule import parse
from rt_scale.training.distributed import ALONE, Group


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
        centre = None if self.momentum is None else self._moved(self.group.mean_of_rows(logits), step)
        sharpened = logits if centre is None else logits - centre
        temperature = self._temperature(step)
        return sharpened if temperature == 1 else sharpened / temperature

    def of_outputs(self, outputs: Outputs, step: int) -> Side:
        """The same of logits that are not made: z / temperature has features / temperature, the centre is a shift.

        The mean of logits is the logits of the mean of features.
        """
        temperature = self._temperature(step)
        # Of short features the mean is not short, and neither is what is left to round after the division.
        features = outputs.features.to(outputs.weight.dtype)
        sharpened = outputs if temperature == 1 else outputs._replace(features=features / temperature)
        if self.momentum is None:
            return Side(sharpened)
        mean = self.group.mean_of_rows(features)
        with torch.no_grad():
            centre = self._moved(outputs._replace(features=mean[None]).logits()[0], step)
        return Side(sharpened, centre / -temperature)

    def _temperature(self, step: int) -> float:
        return self.temperature.value(step, self.steps, self.steps_per_epoch)

    def _moved(self, mean: Tensor, step: int) -> Tensor:
        """The centre [m] as it was, which from here on is moved towards ``mean`` [m]."""
        assert self.momentum is not None
        before = torch.zeros_like(mean) if self.centre is None else self.centre
        momentum = self.momentum.value(step, self.steps, self.steps_per_epoch)
        self.centre = momentum * before + (1 - momentum) * mean
        return before


AS_THEY_ARE = {"teacher": Sharpening(), "student": Sharpening()}
"""Logits of both networks are left alone: the paper's choice."""
