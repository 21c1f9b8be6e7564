"""What every reader of prepared data gives: seeded, resumable epochs of (images, labels, index)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from rt_scale.spec.errors import InputError
from rt_scale.spec.seeding import stream


class Batch(NamedTuple):
    """Some samples, on the loader's device."""

    images: torch.Tensor
    """uint8 [B, H, W, C]."""
    labels: torch.Tensor
    """int64 [B]."""
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """int64 [B], positions among the loader's samples, from 0: what a cache of features is keyed by."""


class Loader(Protocol):
    """A source of batches. Its order depends on seed and epoch alone, never on the reader behind it."""

    @property
    def samples(self) -> int:
        """Number of samples an epoch."""

    @property
    def batch_size(self) -> int:
        """Samples a batch; the last batch of an epoch may hold fewer."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in its shuffled order, from batch ``start`` on."""

    def sequential(self) -> Iterator[Batch]:
        """All samples once, in the order of their index."""


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of 0..n-1, int64 [n]."""
    generator = np.random.Generator(np.random.PCG64(stream("data.order", seed, epoch)))
    return generator.permutation(n)


def check_subset(subset: np.ndarray | None, samples: int) -> np.ndarray | None:
    """``subset`` as int64, once it is known to select from 0..samples-1; InputError otherwise."""
    if subset is None:
        return None
    chosen = np.asarray(subset, np.int64)
    if chosen.ndim != 1 or len(chosen) == 0:
        raise InputError(f"A subset must be a list of positions, at least one; given: shape {chosen.shape}.")
    if chosen.min() < 0 or chosen.max() >= samples:
        raise InputError(f"A subset selects positions {chosen.min()} to {chosen.max()}; there are {samples} images.")
    return chosen


def check_batch_size(batch_size: int) -> int:
    """``batch_size`` if it is at least 1; InputError otherwise."""
    if batch_size < 1:
        raise InputError(f"A batch size of {batch_size} was given; it must be at least 1.")
    return batch_size
