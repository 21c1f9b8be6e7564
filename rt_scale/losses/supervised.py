"""The supervised objective: cross entropy with class labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Supervised(NamedTuple):
    """Loss and accuracy of one batch: means, scalars on the device.

    Attributes:
        loss: cross entropy in nats; the only one with a gradient.
        accuracy: share of the samples whose largest logit is that of their label, in [0, 1].
    """

    loss: Tensor
    accuracy: Tensor


def supervised_cross_entropy(logits: Tensor, labels: Tensor) -> Supervised:
    """Cross entropy -log softmax(logits)_label and accuracy, in the dtype of the logits, but at least float32.

    Args:
        logits: [B, C], floating point.
        labels: int64 [B], in 0..C-1; ValueError for other shapes.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must have the shapes [B, C] and [B]"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    correct = wide.detach().argmax(dim=1) == labels
    return Supervised(F.cross_entropy(wide, labels), correct.to(wide.dtype).mean())
