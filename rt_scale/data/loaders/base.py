"""What every reader gives: seeded, resumable epochs of (images, labels, index), shared by the ranks."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, Required, TypedDict, Unpack

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import stream


class Batch(NamedTuple):
    """Some samples, on the loader's device."""

    images: torch.Tensor
    """uint8 [B, H, W, C]; floats of that shape where they are drawn."""
    labels: torch.Tensor
    """int64 [B]."""
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
    """int64 [B], positions among the loader's samples, from 0: what a cache of features is keyed by."""


class Share(NamedTuple):
    """Which images of a batch a rank has.

    Attributes:
        batch: images in the batch of all ranks together.
        start: position of the first of this rank's, which are consecutive.
    """

    batch: int
    start: int


class Order(TypedDict, total=False):
    """How a loader orders and shares its samples; see ``Loader``."""

    batch_size: Required[int]
    seed: Required[int]
    device: Required[torch.device | str]
    rank: int
    world: int


Images = Generator[torch.Tensor, None, None]
"""Of one share after another, uint8 [B, H, W, C] on the device, in memory that is not written to again."""


class Loader(ABC):
    """A source of batches. Its order depends on seed and epoch alone, never on the reader behind it.

    In a distributed run samples, batch size and steps are those of all ranks together, the same on each; what a
    rank is given is its share of every batch (``shares``). Where images come from is a child's matter.

    Args:
        labels: int64 [samples], in the order of the samples' index.
        batch_size: samples a batch over all ranks, at least 1 a rank; the last of an epoch may hold fewer.
        seed: the data seed; decides with the epoch's number the order of the samples.
        device: where batches lie.
        rank: which share of every batch this loader gives, from 0.
        world: number of ranks.

    Raises:
        InputError: a batch size below 1 or too small for its ranks, or a rank that is not one of ``world``.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"A batch size of {batch_size} was given; it must be at least 1.")
        if not 0 <= rank < world:
            raise InputError(f"Rank {rank} of {world} was given; ranks count from 0 and there is at least one.")
        if batch_size < world:
            raise InputError(
                f"A batch of {batch_size} samples cannot be shared by {world} ranks: the batch size is that of all "
                "ranks together. Use a larger batch or fewer workers."
            )
        self.samples, self.batch_size, self.seed = len(labels), batch_size, seed
        self.rank, self.world = rank, world
        self.device = torch.device(device)
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

    def sequential(self) -> Iterator[Batch]:
        """All samples once over all ranks, in the order of their index."""
        return self._batches(np.arange(self.samples))

    def share(self, number: int) -> Share:
        """Which part of batch ``number`` of an epoch this rank has; of an empty one, an image's place in it."""
        size = min(self.batch_size, self.samples - number * self.batch_size)
        return Share(size, min(size * self.rank // self.world, size - 1))

    def _batches(self, positions: np.ndarray) -> Iterator[Batch]:
        mine = list(shares(len(positions), self.batch_size, self.rank, self.world))
        host = torch.from_numpy(positions)
        there = to_device(host, self.device)
        with contextlib.closing(self._images(host, there, mine)) as read:
            for share, images in zip(mine, read, strict=True):
                index = there[share]
                yield Batch(images, self._labels.index_select(0, index), index)

    @abstractmethod
    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        """The images of each share.

        Args:
            host: int64 [n], positions among the samples, checked, on the host.
            there: the same on the device.
            mine: the part of them that each batch has on this rank; may be empty.
        """


class PreparedLoader(Loader):
    """Batches of a prepared file (a ``Loader``); all its readers give the same.

    Args:
        beton: the prepared file; where its reader does not say otherwise it must not be written to in the meantime.
        subset: int [n] positions in the file, whose order gives the samples their index; all by default.
        order: the rest of what ``Loader`` takes.

    Raises:
        InputError: as ``Loader``, or a subset that is empty or selects images that are not there.
    """

    def __init__(self, beton: Beton, *, subset: np.ndarray | None = None, **order: Unpack[Order]) -> None:
        self._chosen = None if subset is None else _checked(subset, beton.samples)
        super().__init__(beton.labels if self._chosen is None else beton.labels[self._chosen], **order)
        self.image_shape = beton.image_shape

    def _places(self, positions: torch.Tensor) -> np.ndarray:
        """Where samples at ``positions`` (int64, on the host) are in the file, int64 [n]."""
        found: np.ndarray = positions.numpy()
        return found if self._chosen is None else self._chosen[found]


def _checked(subset: np.ndarray, samples: int) -> np.ndarray:
    chosen = np.asarray(subset, np.int64)
    if chosen.ndim != 1 or len(chosen) == 0:
        raise InputError(f"A subset must be a list of positions, at least one; given: shape {chosen.shape}.")
    if chosen.min() < 0 or chosen.max() >= samples:
        raise InputError(f"A subset selects positions {chosen.min()} to {chosen.max()}; there are {samples} images.")
    return chosen


def shares(samples: int, batch_size: int, rank: int, world: int) -> Iterator[slice]:
    """The part that a rank has of each batch of ``samples`` samples in a given order, one a batch.

    The shares of all ranks, joined in their order, are the batch of a single process, the last, smaller one too.
    Within a batch they differ by at most one sample. Every rank has a share of every batch, so that none waits
    for another; where the last batch has fewer samples than ranks, some shares of it are empty.
    """
    for start in range(0, samples, batch_size):
        size = min(batch_size, samples - start)
        yield slice(start + size * rank // world, start + size * (rank + 1) // world)


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of 0..n-1, int64 [n]."""
    generator = np.random.Generator(np.random.PCG64(stream("data.order", seed, epoch)))
    return generator.permutation(n)


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images, or their positions, in host memory, on ``device``; the host does not wait for a GPU."""
    if device.type == "cuda":
        # A fresh pinned buffer a batch: torch's allocator hands it out again only when its copy is done.
        images = images.pin_memory()
    return images.to(device, non_blocking=True)
