"""The linear probe."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Classifier(NamedTuple):
    """A linear classifier.

    Attributes:
        weight: [C, D].
        bias: [C].
    """

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """[B, C] from embeddings [B, D]."""
        return torch.addmm(self.bias, x, self.weight.T)


def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
) -> float:
    """Test accuracy of a linear classifier trained on embeddings (paper, appendix C.1).

    Args:
        train_x, train_y, classes, generator, epochs, batch_size, lr: as in ``train_classifier``.
        test_x: float [M, D], of the training embeddings' dtype and device.
        test_y: int64 [M].

    Returns:
        The share of test samples that are given their class after the last epoch, in [0, 1].
    """
    classifier = train_classifier(
        train_x,
        train_y,
        classes=classes,
        generator=generator,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
    )
    right = (classifier.logits(test_x).argmax(dim=1) == test_y).sum()
    return right.item() / len(test_y)


@torch.no_grad()
def train_classifier(
    x: Tensor,
    y: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    epochs: int = 10,
    batch_size: int = 256,
    lr: float = 1e-3,
) -> Classifier:
    """A linear classifier of embeddings, trained with AdamW on the cross entropy.

    Weights and biases start uniform in +-1/sqrt(D); AdamW has torch's defaults (betas 0.9 and 0.999,
    weight decay 0.01 on both); every epoch has a new order; the last partial batch is a step too. The
    gradient of one linear layer is written out, (softmax - onehot)^T x / B: autograd's bookkeeping
    would cost more than the arithmetic. Nothing waits for the device.

    Args:
        x: float [N, D].
        y: int64 [N], in [0, classes), on the same device.
        classes: number of classes C.
        generator: on the CPU; draws the weights, the biases, then one order an epoch.
        epochs: passes over the embeddings.
        batch_size: embeddings a step.
        lr: learning rate.
    """
    width = x.shape[1]
    drawn = torch.empty((width + 1) * classes)
    drawn.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    # Weights and biases are views of one vector, so that the optimiser updates one tensor.
    parameters = drawn.to(device=x.device, dtype=x.dtype)
    parameters.grad = torch.empty_like(parameters)
    classifier = views(parameters, classes, width)
    gradient = views(parameters.grad, classes, width)
    # The one-kernel step is the fastest on a GPU, and slower than the plain one on a CPU.
    optimizer = torch.optim.AdamW([parameters], lr=lr, fused=x.is_cuda)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device, non_blocking=True)
        for index in torch.split(order, batch_size):
            write_gradient(gradient, classifier, x.index_select(0, index), y.index_select(0, index))
            optimizer.step()
    return classifier


def write_gradient(gradient: Classifier, classifier: Classifier, x: Tensor, y: Tensor) -> None:
    """Write the gradient of the mean cross entropy over embeddings [B, D] and labels [B]."""
    errors = torch.softmax(classifier.logits(x), dim=1)
    target = y.unsqueeze(1)
    errors.scatter_add_(1, target, errors.new_full((1, 1), -1.0).expand_as(target))
    errors.div_(len(x))
    torch.mm(errors.T, x, out=gradient.weight)
    torch.sum(errors, dim=0, out=gradient.bias)


def views(vector: Tensor, classes: int, width: int) -> Classifier:
    """The weight [classes, width] and the bias [classes] that lie in ``vector`` one after the other."""
    return Classifier(vector[: classes * width].view(classes, width), vector[classes * width :])
