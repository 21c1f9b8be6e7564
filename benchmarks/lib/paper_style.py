"""Distillation and probing the way that research code usually does both: what we are measured against.

Written anew from the method's description, for these benchmarks; nothing of the authors' code is in
it. The networks are ours, since both sides must compute the same; the ways are the common ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms

from rt_scale.models.networks import Model, Network


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images held as arrays and opened one by one as PIL images, as torchvision's data sets are.

    Args:
        images: uint8 [N, H, W, C].
        labels: int64 [N].
        mean, std: per channel, of pixels in [0, 1].
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
        self.images = images.squeeze(-1) if images.shape[-1] == 1 else images
        self.labels = labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[position])), int(self.labels[position])


class GivenOrder(Sampler[int]):
    """Positions in the order that ``positions`` is set to, so that both sides see the same batches."""

    def __init__(self) -> None:
        self.positions: Sequence[int] = []

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


def batches(data: PilImages, sampler: Sampler[int] | None, batch_size: int, workers: int) -> DataLoader[Tensor]:
    """A DataLoader whose workers stay alive between epochs; in index order without a sampler; pinned for a GPU."""
    return DataLoader(
        data,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        drop_last=False,
    )


class StepMetrics(NamedTuple):
    """What is read back at every step, in nats."""

    loss: float
    kl: float
    teacher_entropy: float
    student_entropy: float
    grad_norm: float


class PaperStyleDistillation:
    """One step at a time: both networks run, everything is composed, metrics are read back.

    Args:
        teacher: frozen, in evaluation mode, contiguous layout.
        student: in training mode, contiguous layout, on the same device.
        lr: of AdamW without weight decay.
    """

    def __init__(self, teacher: Network, student: Network, lr: float) -> None:
        self.teacher, self.student = (in_textbook_order(network) for network in (teacher, student))
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0)

    def step(self, inputs: Tensor) -> StepMetrics:
        """Update the student on inputs [B, C, H, W], which are moved to its device."""
        inputs = inputs.to(_device(self.student), non_blocking=True)
        with torch.no_grad():
            teacher_logits = _logits(self.teacher, inputs)
        student_logits = _logits(self.student, inputs)
        targets = torch.softmax(teacher_logits, dim=1)
        log_predictions = torch.log_softmax(student_logits, dim=1)
        loss = -(targets * log_predictions).sum(dim=1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            teacher_entropy = -(targets * torch.log_softmax(teacher_logits, dim=1)).sum(dim=1).mean()
            student_entropy = -(log_predictions.exp() * log_predictions).sum(dim=1).mean()
            squares = sum(p.grad.square().sum() for p in self.student.parameters() if p.grad is not None)
        self.optimizer.step()
        return StepMetrics(
            loss.item(),
            (loss - teacher_entropy).item(),
            teacher_entropy.item(),
            student_entropy.item(),
            float(squares) ** 0.5,
        )


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def in_textbook_order(network: Model) -> Model:
    """Each ReLU before its max pool, as torchvision has it; ours comes after, which computes the same in less time."""
    for modules in [each for each in network.modules() if isinstance(each, nn.Sequential)]:
        for place in range(len(modules) - 1):
            if isinstance(modules[place], nn.MaxPool2d) and isinstance(modules[place + 1], nn.ReLU):
                modules[place], modules[place + 1] = modules[place + 1], modules[place]
    return network


def _logits(network: Network, inputs: Tensor) -> Tensor:
    return functional.linear(network.features(inputs), functional.normalize(network.projector.last.weight, dim=1))


def evaluate(
    encoders: dict[str, nn.Module],
    train: DataLoader[Tensor],
    test: DataLoader[Tensor],
    *,
    classes: int,
    k: int,
    epochs: int,
    lr: float,
) -> dict[str, float]:
    """Linear and kNN accuracy of every encoder: embedded through the DataLoader, probed batch by batch."""
    values = {}
    for name, encoder in encoders.items():
        fitted, measured = _embed(encoder, train), _embed(encoder, test)
        values[f"{name}/linear"] = _linear(fitted, measured, classes, epochs, lr)
        values[f"{name}/knn"] = _knn(fitted, measured, classes, k)
    return values


Embedded = list[tuple[Tensor, Tensor]]
"""Batches of embeddings and labels, on the encoder's device."""

_PROBE_BATCH = 256


@torch.no_grad()
def _embed(encoder: nn.Module, loader: DataLoader[Tensor]) -> Embedded:
    was_training = encoder.training
    encoder.eval()
    device = _device(encoder)
    embedded = [(encoder(inputs.to(device)), labels.to(device)) for inputs, labels in loader]
    encoder.train(was_training)
    return embedded


def _joined(batched: Embedded) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batched]), torch.cat([y for _, y in batched])


def _linear(train: Embedded, test: Embedded, classes: int, epochs: int, lr: float) -> float:
    classifier = nn.Linear(train[0][0].shape[1], classes).to(train[0][0].device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr)
    features, labels = _joined(train)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(_PROBE_BATCH):
            loss = functional.cross_entropy(classifier(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
    with torch.no_grad():
        right = sum((classifier(x).argmax(dim=1) == y).sum().item() for x, y in test)
    return right / sum(len(y) for _, y in test)


def _knn(train: Embedded, test: Embedded, classes: int, k: int) -> float:
    features, labels = _joined(train)
    right = 0
    for x, y in test:
        nearest = torch.cdist(x, features).topk(k, dim=1, largest=False).indices
        votes = functional.one_hot(labels[nearest], classes).sum(dim=1)
        right += int((votes.argmax(dim=1) == y).sum().item())
    return right / sum(len(y) for _, y in test)
