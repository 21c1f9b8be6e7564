"""The objective of distillation as the loop takes it: one batch in, loss and metrics out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from rt_scale.data.loader import Batch
from rt_scale.training.loop import Measured
from rt_scale.training.objective import cross_entropy
from rt_scale.training.targets import Targets


def parameter_dtype(precision: str) -> torch.dtype:
    """The dtype of parameters and inputs: float64 for that precision, else float32."""
    return torch.float64 if precision == "float64" else torch.float32


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context that a network's forward pass runs in: autocast for bf16, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


class Distillation:
    """Soft cross entropy of the student's logits under the teacher's, on the same images.

    Args:
        targets: the teacher's logits.
        to_inputs: uint8 images [B, H, W, C] to network inputs [B, C, H, W].
        precision: of the spec; the objective itself is at least float32.
    """

    def __init__(self, targets: Targets, to_inputs: Callable[[Tensor], Tensor], precision: str) -> None:
        self.targets = targets
        self.to_inputs = to_inputs
        self.precision = precision

    def __call__(self, model: nn.Module, batch: Batch) -> Measured:
        """Loss of ``model`` and, in nats, the metrics ``kl``, ``teacher_entropy`` and ``student_entropy``.

        KL(teacher || student) = loss - teacher entropy (paper, appendix D).
        """
        inputs = self.to_inputs(batch.images)
        with arithmetic(self.precision, inputs.device):
            teacher_logits = self.targets(inputs, batch.index)
            student_logits = model(inputs)
        at_least = torch.promote_types(student_logits.dtype, torch.float32)
        measured = cross_entropy(student_logits.to(at_least), teacher_logits.to(at_least))
        return Measured(
            measured.loss,
            {
                "kl": measured.loss - measured.teacher_entropy,
                "teacher_entropy": measured.teacher_entropy,
                "student_entropy": measured.student_entropy,
            },
        )
