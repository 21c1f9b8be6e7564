"""How a teacher follows its student, and how logits are centred and divided by a temperature (paper, appendix E.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt_scale.models.networks import Network
from rt_scale.models.projector import Outputs
from rt_scale.spec.networks import TeacherSpec
from rt_scale.spec.schedule import parse
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Progress


class Sharpening:
    """(logits - centre) / temperature, with a running mean of the logits as the centre.

    The centre starts at 0 and is updated after its use, c <- mu c + (1 - mu) mean(logits), over all images and
    views of the batch (Caron et al. 2021, equation 4). No gradient flows through it.

    Args:
        temperature: a number or a schedule, > 0.
        center: momentum mu, a number or a schedule in [0, 1]; None: no centre.
        steps, steps_per_epoch: optimiser steps of the run and of an epoch, for schedules.
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
        """Centred and scaled logits [rows, m] at optimiser step ``step`` (from 0); updates the centre."""
        centre = None if self.momentum is None else self._moved(self.group.mean_of_rows(logits), step)
        return self._around(centre, logits, step)

    def unmoved(self, logits: Tensor, step: int) -> Tensor:
        """The same [rows, m], but the centre stays."""
        return self._around(self.centre, logits, step)

    def _around(self, centre: Tensor | None, logits: Tensor, step: int) -> Tensor:
        sharpened = logits if centre is None else logits - centre
        temperature = self._temperature(step)
        return sharpened if temperature == 1 else sharpened / temperature

    def of_outputs(self, outputs: Outputs, step: int) -> Outputs:
        """The same by factors: features / temperature give z / temperature, and the centre is a shift."""
        temperature = self._temperature(step)
        # The mean and the quotient of bfloat16 features need the weights' precision.
        features = outputs.features.to(outputs.weight.dtype)
        sharpened = outputs if temperature == 1 else outputs._replace(features=features / temperature)
        if self.momentum is None:
            return sharpened
        mean = self.group.mean_of_rows(features)
        with torch.no_grad():  # the mean of logits is the logits of the mean of features
            centre = self._moved(outputs._replace(features=mean[None]).logits()[0], step)
        return sharpened._replace(shift=centre / -temperature)

    def _temperature(self, step: int) -> float:
        return self.temperature.value(step, self.steps, self.steps_per_epoch)

    def _moved(self, mean: Tensor, step: int) -> Tensor:
        """The present centre [m]; the next one is moved towards ``mean`` [m]."""
        assert self.momentum is not None
        before = torch.zeros_like(mean) if self.centre is None else self.centre
        momentum = self.momentum.value(step, self.steps, self.steps_per_epoch)
        self.centre = momentum * before + (1 - momentum) * mean
        return before


AS_THEY_ARE = {"teacher": Sharpening(), "student": Sharpening()}
"""Logits of both networks are not changed: the paper's choice."""


class Following:
    """Updates a teacher after steps and epochs of its student (a Hook of the loop).

    ema: theta_T <- mu theta_T + (1 - mu) theta_S after every step, mu of the step just done (paper, section 2 and
    appendix E.3; Caron et al. 2021, algorithm 1). previous_epoch: theta_T <- theta_S after every epoch. With
    ``statistics: student``, running statistics of batch norms are updated in the same way.

    The teacher, of the student's architecture, dtype and device, is put into the mode that ``spec`` names.
    """

    def __init__(
        self, spec: TeacherSpec, teacher: Network, student: nn.Module, *, steps: int, steps_per_epoch: int
    ) -> None:
        self.update, self.momentum = spec.update, parse(spec.momentum)
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.pairs = [_tensors(network, statistics=spec.statistics == "student") for network in (teacher, student)]
        for module in teacher.modules():
            if isinstance(module, _BatchNorm) and spec.statistics != "data":
                module.momentum = 0.0  # a pass in training mode then does not change the running statistics
        teacher.train(spec.mode == "train")

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Update a teacher of kind ema; no synchronisation with the device."""
        if self.update == "ema":
            momentum = self.momentum.value(progress.step - 1, self.steps, self.steps_per_epoch)
            teacher, student = self.pairs
            torch._foreach_lerp_(teacher, student, 1 - momentum)

    @torch.no_grad()
    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Copy the student into a teacher of kind previous_epoch."""
        if self.update == "previous_epoch":
            teacher, student = self.pairs
            torch._foreach_copy_(teacher, student)


def _tensors(network: nn.Module, *, statistics: bool) -> list[Tensor]:
    """Parameters and, with ``statistics``, running means and variances."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()] if statistics else []
    return [*network.parameters(), *buffers]
