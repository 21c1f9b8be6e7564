"""The supervised objective: cross entropy with class labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def supervised_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Means over a batch, scalars in the dtype of the logits, but at least float32.

    They are the cross entropy -log softmax(logits)_label in nats and, without gradient, the accuracy: the share of
    samples whose largest logit is that of their label, in [0, 1].

    Args:
        logits: [B, C], floating point.
        labels: int64 [B], in 0..C-1.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    correct = wide.detach().argmax(dim=1) == labels
    return F.cross_entropy(wide, labels), correct.to(wide.dtype).mean()
