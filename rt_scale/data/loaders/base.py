"""What every reader of prepared data gives: seeded, resumable epochs of (images, labels, index)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from rt_scale.spec.errors import InputError
from rt_scale.spec.run import stream


class Batch(NamedTuple):
    """Some samples, on the loader's device."""

    images: torch.Tensor
    """uint8 [B, H, W, C]."""
    labels: torch.Tensor
    """int64 [B]."""
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """int64 [B], positions among the loader's samples, from 0: what a cache of features is keyed by."""


class Loader(Protocol):
    """A source of batches. Its order depends on seed and epoch alone, never on the reader behind it.

    In a distributed run samples, batch size and steps are those of all ranks together, the same on each; what a
    rank is given is its share of every batch (``shares``).
    """

    @property
    def samples(self) -> int:
        """Number of samples an epoch."""

    @property
    def batch_size(self) -> int:
        """Samples a batch, over all ranks; the last batch of an epoch may hold fewer."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in its shuffled order, from batch ``start`` on."""

    def sequential(self) -> Iterator[Batch]:
        """All samples once over all ranks, in the order of their index."""


class OrderedLoader(ABC):
    """The order, the shares and the labels of a ``Loader``; where images come from is its child's matter.

    Args:
        labels: int64 [samples], of the loader's samples in the order of their index.
        batch_size: samples a batch over all ranks, at least 1 a rank.
        seed: the data seed; decides with the epoch's number the order of the samples.
        device: where batches lie.
        rank: which share of every batch this loader gives, from 0.
        world: number of ranks.

    Raises:
        InputError: a batch too small for its ranks, or a rank that is not one of ``world``.
    """

    def __init__(
        self, labels: np.ndarray, *, batch_size: int, seed: int, device: torch.device | str, rank: int, world: int
    ) -> None:
        self.samples = len(labels)
        self.batch_size = check_batch_size(batch_size)
        self.seed = seed
        self.device = torch.device(device)
        self.rank, self.world = check_shard(rank, world, batch_size)
        self._labels = torch.from_numpy(labels).to(self.device)

    @property
    def steps(self) -> int:
        """Batches an epoch, on every rank."""
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in the order of (seed, epoch), from batch ``start`` on.

        Raises InputError where ``start`` is negative; from a start beyond the last batch there are none.
        """
        if start < 0:
            raise InputError(f"Epoch {epoch} was to start at batch {start}; batches count from 0.")
        return self._batches(order(self.samples, self.seed, epoch)[start * self.batch_size :])

    def share(self, number: int) -> Share:
        """Which part of batch ``number`` of an epoch this rank has; of an empty one, an image's place in it."""
        start = number * self.batch_size
        size = min(self.batch_size, self.samples - start)
        return Share(size, min(size * self.rank // self.world, size - 1))

    def sequential(self) -> Iterator[Batch]:
        """All samples once over all ranks, in the order of their index."""
        return self._batches(np.arange(self.samples))

    def _batches(self, positions: np.ndarray) -> Iterator[Batch]:
        mine = list(shares(len(positions), self.batch_size, self.rank, self.world))
        host = torch.from_numpy(positions)
        there = to_device(host, self.device)
        with contextlib.closing(self._images(host, there, mine)) as read:
            for share, images in zip(mine, read, strict=True):
                index = there[share]
                yield Batch(images, self._labels.index_select(0, index), index)

    @abstractmethod
    def _images(
        self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]
    ) -> Generator[torch.Tensor, None, None]:
        """The images of each share: uint8 [B, H, W, C] on the device, in memory that is not written to again.

        Args:
            host: int64 [n], positions among the samples, checked, on the host.
            there: the same on the device.
            mine: the part of them that each batch has on this rank; may be empty.
        """


def shares(samples: int, batch_size: int, rank: int, world: int) -> Iterator[slice]:
    """The part that a rank has of each batch of ``samples`` samples in a given order, one a batch.

    The shares of all ranks, joined in their order, are the batch of a single process, the last, smaller one too.
    Within a batch they differ by at most one sample. Every rank has a share of every batch, so that none waits
    for another; where the last batch has fewer samples than ranks, some shares of it are empty.
    """
    for start in range(0, samples, batch_size):
        size = min(batch_size, samples - start)
        yield slice(start + size * rank // world, start + size * (rank + 1) // world)


class Share(NamedTuple):
    """Which images of a batch a rank has.

    Attributes:
        batch: images in the batch of all ranks together.
        start: position of the first of this rank's, which are consecutive.
    """

    batch: int
    start: int


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


def check_shard(rank: int, world: int, batch_size: int) -> tuple[int, int]:
    """(``rank``, ``world``) if it is one of the ranks and a batch has a sample for each; InputError otherwise."""
    if not 0 <= rank < world:
        raise InputError(f"Rank {rank} of {world} was given; ranks count from 0 and there is at least one.")
    if batch_size < world:
        raise InputError(
            f"A batch of {batch_size} samples cannot be shared by {world} ranks: the batch size is that of all "
            "ranks together. Use a larger batch or fewer workers."
        )
    return rank, world


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images, or their positions, in host memory, on ``device``; the host does not wait for a GPU."""
    if device.type == "cuda":
        # A fresh pinned buffer a batch: torch's allocator hands it out again only when its copy is done.
        images = images.pin_memory()
    return images.to(device, non_blocking=True)
