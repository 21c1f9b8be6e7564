"""The reader for sets that do not fit in memory where there is no FFCV: batches gathered from the memory map."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import OrderedLoader, check_subset, to_device


class MapLoader(OrderedLoader):
    """Batches gathered from the prepared file as they are needed (a ``Loader``): those of ``ResidentLoader``.

    Its pages are the operating system's, shared by every process that reads the file.

    Args:
        beton: the prepared file; it must not be changed while the loader is used.
        batch_size: samples a batch over all ranks, at least 1 a rank.
        seed: the data seed; decides with the epoch's number the order of its samples.
        device: where batches lie.
        subset: int [n] positions in the file, whose order gives the samples their index; all by default.
        rank: which share of every batch this loader gives, from 0.
        world: number of ranks.

    Raises:
        InputError: as ``ResidentLoader``.
    """

    def __init__(
        self,
        beton: Beton,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        subset: np.ndarray | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._chosen = check_subset(subset, beton.samples)
        labels = beton.labels if self._chosen is None else beton.labels[self._chosen]
        super().__init__(labels, batch_size=batch_size, seed=seed, device=device, rank=rank, world=world)
        self._beton = beton

    def _images(
        self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]
    ) -> Generator[torch.Tensor, None, None]:
        for share in mine:
            positions = host[share].numpy()
            found = self._beton.gather(positions if self._chosen is None else self._chosen[positions])
            yield to_device(torch.from_numpy(found), self.device)
