"""The reader for sets that fit in memory: all images as uint8 on the device, or beside it in host memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loader import Batch, check_batch_size, check_subset, order


class ResidentLoader:
    """Batches gathered on the device from a set that was read once (a ``Loader``).

    Args:
        beton: the prepared file; its images are copied, so it may change or vanish afterwards.
        batch_size: samples a batch, at least 1.
        seed: the data seed; decides with the epoch's number the order of its samples.
        device: where batches lie.
        subset: int [n] positions in the file, whose order gives the samples their index; all by default.
        host: keep the images in host memory and move every batch. By default they are kept on the device
            unless they would take more than half of its free memory.

    Raises:
        InputError: batch size below 1, or a subset that is empty or selects images that are not there.
    """

    def __init__(
        self,
        beton: Beton,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        subset: np.ndarray | None = None,
        host: bool | None = None,
    ) -> None:
        self.batch_size = check_batch_size(batch_size)
        self.seed = seed
        self.device = torch.device(device)
        chosen = check_subset(subset, beton.samples)
        images = beton.read_all() if chosen is None else beton.gather(chosen)
        labels = beton.labels if chosen is None else beton.labels[chosen]
        self.samples = len(labels)
        self.image_shape = beton.image_shape
        self.on_host = _too_large(self.device, images.nbytes) if host is None else host
        # Rows, not images: on the CPU index_select is faster over a matrix than over 4 dimensions.
        rows = torch.from_numpy(images.reshape(self.samples, -1))
        self._rows = rows if self.on_host else rows.to(self.device)
        self._labels = torch.from_numpy(labels).to(self.device)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-self.samples // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in the order of (seed, epoch), from batch ``start`` on."""
        yield from self._batches(order(self.samples, self.seed, epoch)[start * self.batch_size :])

    def sequential(self) -> Iterator[Batch]:
        """All samples once, in the order of their index."""
        yield from self._batches(np.arange(self.samples))

    def _batches(self, positions: np.ndarray) -> Iterator[Batch]:
        host = torch.from_numpy(positions)
        on_device = host.to(self.device)
        for start in range(0, len(positions), self.batch_size):
            here, there = host[start : start + self.batch_size], on_device[start : start + self.batch_size]
            yield Batch(self._gather(here, there), self._labels.index_select(0, there), there)

    def _gather(self, here: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        shape = (len(here), *self.image_shape)
        if not self.on_host:
            return self._rows.index_select(0, there).view(shape)
        rows = self._rows.index_select(0, here)
        if self.device.type == "cuda":
            # A fresh pinned buffer a batch: torch's allocator hands it out again only when its copy is done.
            rows = rows.pin_memory()
        return rows.to(self.device, non_blocking=True).view(shape)


def _too_large(device: torch.device, image_bytes: int) -> bool:
    """Whether images would take more than half of a GPU's free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return image_bytes > free // 2
