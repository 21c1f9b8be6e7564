"""The base of all loaders: seeded, resumable epochs of (images, labels, index), shared by the ranks."""

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
    """uint8 [B, H, W, C]; floats of that shape for Gaussian inputs."""
    labels: torch.Tensor
    """int64 [B]."""
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch does not need
    """int64 [B], positions among the loader's samples; caches of features use them as keys."""


class Share(NamedTuple):
    """The part of a batch (of ``batch`` images on all ranks) that a rank has: consecutive images."""

    batch: int
    start: int
    """Position of this rank's first image."""


class Order(TypedDict, total=False):
    """How a loader orders and shares its samples; see ``Loader``."""

    batch_size: Required[int]
    seed: Required[int]
    device: Required[torch.device | str]
    rank: int
    world: int


Images = Generator[torch.Tensor, None, None]
"""The images of each share, uint8 [B, H, W, C] on the device, in memory that is not reused."""


class Loader(ABC):
    """A source of batches, in an order that depends only on seed and epoch.

    In a distributed run samples, batch size and steps are those of all ranks together; a rank gets its share of every
    batch (``shares``).

    Args:
        labels: int64 [samples], in the order of the samples' index.
        batch_size: samples a batch over all ranks, at least 1 a rank; the last batch of an epoch may be smaller.
        seed: seed and epoch decide the order of the samples.
        rank: of this loader, from 0.

    Raises:
        InputError: a batch size below ``world``.
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
        """The batches of an epoch from batch ``start``; none beyond the last."""
        return self._batches(order(self.samples, self.seed, epoch)[start * self.batch_size :])

    def sequential(self) -> Iterator[Batch]:
        """All samples once, in the order of their index, shared by the ranks."""
        return self._batches(np.arange(self.samples))

    def share(self, number: int) -> Share:
        """This rank's part of batch ``number`` of an epoch; ``start`` is a valid position even if the part is empty."""
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
            host: int64 [n], valid positions among the samples, on the host.
            there: the same on the device.
            mine: this rank's part of the positions for each batch; may be empty.
        """


class PreparedLoader(Loader):
    """Batches of a prepared file; all loaders of prepared files give the same batches.

    Args:
        beton: must not be written to while the loader is used, unless the subclass allows it.
        subset: int [n] positions in the file, in the order of the samples' index; all by default.
        order: the other arguments of ``Loader``.

    Raises:
        InputError: as ``Loader``, or a subset that is empty or has positions outside of the file.
    """

    def __init__(self, beton: Beton, *, subset: np.ndarray | None = None, **order: Unpack[Order]) -> None:
        self._chosen = None if subset is None else _checked(subset, beton.samples)
        super().__init__(beton.labels if self._chosen is None else beton.labels[self._chosen], **order)
        self.image_shape = beton.image_shape

    def _places(self, positions: torch.Tensor) -> np.ndarray:
        """Positions in the file, int64 [n], of the samples at ``positions`` (int64 [n], on the host)."""
        found: np.ndarray = positions.numpy()
        return found if self._chosen is None else self._chosen[found]


class MapLoader(PreparedLoader):
    """Batches gathered from the mapped file, for sets that do not fit in memory; processes share its pages."""

    def __init__(self, beton: Beton, *, subset: np.ndarray | None = None, **order: Unpack[Order]) -> None:
        super().__init__(beton, subset=subset, **order)
        self._beton = beton

    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        for share in mine:
            yield to_device(torch.from_numpy(self._beton.gather(self._places(host[share]))), self.device)


def _checked(subset: np.ndarray, samples: int) -> np.ndarray:
    chosen = np.asarray(subset, np.int64)
    if chosen.ndim != 1 or len(chosen) == 0:
        raise InputError(f"A subset must be a list of positions, at least one; given: shape {chosen.shape}.")
    if chosen.min() < 0 or chosen.max() >= samples:
        raise InputError(f"A subset selects positions {chosen.min()} to {chosen.max()}; there are {samples} images.")
    return chosen


def shares(samples: int, batch_size: int, rank: int, world: int) -> Iterator[slice]:
    """A rank's part of each batch of ``samples`` samples.

    The shares of all ranks, in the order of ranks, form the batch of a single process; their sizes differ by at most
    one. Every rank has a share of every batch, since ranks synchronise every step; those of a small last batch may be
    empty.
    """
    for start in range(0, samples, batch_size):
        size = min(batch_size, samples - start)
        yield slice(start + size * rank // world, start + size * (rank + 1) // world)


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch: a permutation of 0..n-1, int64 [n]."""
    generator = np.random.Generator(np.random.PCG64(stream("data.order", seed, epoch)))
    return generator.permutation(n)


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor, of any shape and dtype, copied to ``device``; the host does not wait for a GPU."""
    if device.type == "cuda":
        # A new pinned buffer each time; torch's allocator reuses it only after its copy has finished.
        images = images.pin_memory()
    return images.to(device, non_blocking=True)
