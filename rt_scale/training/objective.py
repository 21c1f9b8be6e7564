"""The distillation objective: soft cross entropy between teacher and student (paper, appendix A)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    """Cross entropy with soft targets that keeps one batch x m tensor for the backward pass: its gradient.

    Beside the logits that it is given it makes two, the probabilities of student and teacher, and
    lets the second go at the end of the forward pass. With m = 65,536 the step is bound by memory
    traffic, so everything else is a row's worth: with n = log sum_j exp(z_j), cross entropy and
    entropy are n - <p, z>, and no batch x m tensor of log-probabilities is needed.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        predictions = torch.softmax(student_logits, dim=1)
        targets = torch.softmax(teacher_logits, dim=1)
        normaliser = _log_normaliser(student_logits, predictions)
        loss = (normaliser - _row_dot(targets, student_logits)).mean()
        student_entropy = (normaliser - _row_dot(predictions, student_logits)).mean()
        normaliser = _log_normaliser(teacher_logits, targets)
        teacher_entropy = (normaliser - _row_dot(targets, teacher_logits)).mean()
        # d loss / d logits = (p - t) / B, because the targets of a row sum to 1.
        ctx.save_for_backward(predictions.sub_(targets))
        ctx.mark_non_differentiable(teacher_entropy, student_entropy)
        return loss, teacher_entropy, student_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        # In place: torch refuses a second backward pass, which would find it scaled already.
        return difference.mul_(grads[0] / difference.shape[0]), None


def _log_normaliser(logits: Tensor, probabilities: Tensor) -> Tensor:
    """log sum_j exp(z_j) [B] of logits [B, m], read off the largest logit and its probability.

    Exact where it counts: the largest probability is at least 1 / m. torch.logsumexp would pass over
    all of the logits again, several times.
    """
    return logits.amax(dim=1) - probabilities.amax(dim=1).log()


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
