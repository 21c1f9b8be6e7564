"""How a teacher follows its student: not at all, as a moving average, or an epoch behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rt_scale.models.pair import Network
from rt_scale.spec.schedule import parse
from rt_scale.spec.teacher import TeacherSpec
from rt_scale.training.means import Progress


class Following:
    """Moves a teacher after steps and epochs of its student (a Hook of the loop).

    ema: theta_T <- mu theta_T + (1 - mu) theta_S after every step, mu of the step just done (paper, section 2 and
    appendix E.3; Caron et al. 2021, algorithm 1). previous_epoch: theta_T <- theta_S after every epoch. Running
    statistics of batch norms go the same way where they follow the student.

    Args:
        spec: how it follows.
        teacher: changed in place; put into the mode that ``spec`` says.
        student: of the same architecture, dtype and device.
        steps: optimiser steps of the run.
        steps_per_epoch: optimiser steps an epoch.
    """

    def __init__(
        self, spec: TeacherSpec, teacher: Network, student: nn.Module, *, steps: int, steps_per_epoch: int
    ) -> None:
        self.update, self.momentum = spec.update, parse(spec.momentum)
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.pairs = [_tensors(network, statistics=spec.statistics == "student") for network in (teacher, student)]
        for module in teacher.modules():
            if isinstance(module, _BatchNorm) and spec.statistics != "data":
                module.momentum = 0.0  # a pass in training mode leaves the running statistics as they are
        teacher.train(spec.mode == "train")

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Move an averaged teacher; no synchronisation with the device."""
        if self.update == "ema":
            momentum = self.momentum.value(progress.step - 1, self.steps, self.steps_per_epoch)
            teacher, student = self.pairs
            torch._foreach_lerp_(teacher, student, 1 - momentum)

    @torch.no_grad()
    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Copy the student where the teacher is that of the epoch before."""
        if self.update == "previous_epoch":
            teacher, student = self.pairs
            torch._foreach_copy_(teacher, student)


def _tensors(network: nn.Module, *, statistics: bool) -> list[Tensor]:
    """Parameters, and running means and variances where they are asked for."""
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()] if statistics else []
    return [*network.parameters(), *buffers]
