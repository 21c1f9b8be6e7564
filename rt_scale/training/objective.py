"""The distillation objective: soft cross entropy between teacher and student (paper, appendix A)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Distance(NamedTuple):
    """The objective of one batch and what it is made of, each a scalar tensor on the device, in nats.

    Attributes:
        loss: cross entropy of the student under the teacher, summed over outputs, averaged over the batch;
            the only one with a gradient.
        teacher_entropy: mean entropy of the teacher's distributions.
        student_entropy: mean entropy of the student's distributions.
    """

    loss: Tensor
    teacher_entropy: Tensor
    student_entropy: Tensor


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross entropy with soft targets in two batch x m tensors: the log-probabilities and the targets.

    The backward pass writes its gradient into the first of them, since with m = 65,536 the
    step is bound by memory traffic.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(student_logits, dim=1)
        normaliser = torch.logsumexp(teacher_logits, dim=1, keepdim=True)
        targets = torch.sub(teacher_logits, normaliser).exp_()
        cross_entropy = -_row_dot(targets, log_p).mean()
        teacher_entropy = (normaliser.squeeze(1) - _row_dot(targets, teacher_logits)).mean()
        student_entropy = -_row_dot(log_p.exp(), log_p).mean()
        ctx.save_for_backward(log_p, targets)
        ctx.mark_non_differentiable(teacher_entropy, student_entropy)
        return cross_entropy, teacher_entropy, student_entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        log_p, targets = ctx.saved_tensors
        # d loss / d logits = (p - t) / B, because the targets of a row sum to 1.
        gradient = torch.exp(log_p).sub_(targets).mul_(grads[0] / log_p.shape[0])
        return gradient, None


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows of two [B, m] tensors, without a third."""
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()


def cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Distance:
    """Soft cross entropy, -sum_i softmax(teacher)_i log softmax(student)_i, averaged over the batch.

    The gradient reaches the student's logits alone. KL(teacher || student) is
    ``loss - teacher_entropy`` (paper, appendix D).

    Args:
        student_logits: [B, m], floating point.
        teacher_logits: [B, m], of the same dtype.

    Raises:
        ValueError: where the shapes differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher logits "
            f"{tuple(teacher_logits.shape)} must have one shape [B, m]"
        )
    return Distance(*_SoftCrossEntropy.apply(student_logits, teacher_logits.detach()))
