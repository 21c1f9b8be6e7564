"""Embeddings of a whole split, and their standardisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rt_scale.probes.statistics import mean_and_deviation
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.precision import arithmetic

if TYPE_CHECKING:
    from rt_scale.data.loaders.base import Batch

ToInputs = Callable[[Tensor], Tensor]
"""From images, uint8 [B, H, W, C], to a network's inputs, float [B, C, H, W], on the same device."""


class Split(Protocol):
    """The images of one split; every loader of ``rt_scale.data`` is one."""

    @property
    def samples(self) -> int:
        """Number of images, over all ranks."""

    def sequential(self) -> Iterator[Batch]:
        """Every image once over all ranks, in index order."""


class Features(NamedTuple):
    """One vector an image, x float32 [N, D], and its class, y int64 [N]."""

    x: Tensor
    y: Tensor


@torch.no_grad()
def embed(
    encoder: nn.Module,
    split: Split,
    to_inputs: ToInputs,
    group: Group = ALONE,
    *,
    precision: str = "float32",
    check_stop: StopCheck = no_check,
) -> Features:
    """Embeddings and labels of a split in index order, by the encoder in evaluation mode (paper, section 3 'Probing').

    Args:
        encoder: from inputs [B, C, H, W] to embeddings [B, D], on the device of the inputs.
        group: the ranks that share the work, each with a split of at least one image; all have the whole result.
        precision: the encoder computes as in training, for bf16 under autocast.
        check_stop: called before every batch, on every rank.

    Raises:
        ValueError: the split is empty, or yields another number of images than ``samples``.
    """
    filled, features = 0, Features(torch.empty(0), torch.empty(0))
    with evaluation_mode(encoder):
        for batch in split.sequential():
            check_stop()
            if group.world > 1 and not len(batch.index):
                continue
            inputs = to_inputs(batch.images)
            with arithmetic(precision, inputs.device):
                embeddings = encoder(inputs)
            if not filled:
                x = embeddings.new_zeros((split.samples, embeddings.shape[1]), dtype=torch.float32)
                features = Features(x, torch.zeros(split.samples, dtype=torch.int64, device=x.device))
            rows = batch.index if group.world > 1 else slice(filled, filled + len(embeddings))
            features.x[rows], features.y[rows] = embeddings.to(features.x), batch.labels
            filled += len(embeddings)
    if filled:
        for tensor in features:  # one rank computes each row, the others hold 0: the sum is exact
            group.sum(tensor)
        filled = int(group.sum(torch.tensor([filled], device=features.x.device)))
    if filled != split.samples or not filled:
        raise ValueError(f"a split of {split.samples} images yielded {filled}")
    return features


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Copies of train [N, D] and test [M, D] less the training mean, divided by the training standard deviation.

    Per dimension; a dimension that is constant over the training split is divided by 1.
    """
    mean, deviation = mean_and_deviation(train)
    return (train - mean).div_(deviation), (test - mean).div_(deviation)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` is in evaluation mode; afterwards the mode of every module is restored."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
