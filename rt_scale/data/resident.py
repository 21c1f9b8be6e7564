"""The reader for sets that fit in memory: all images as uint8 on the device, or beside it in host memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loader import OrderedLoader, check_subset, to_device


class ResidentLoader(OrderedLoader):
    """Batches gathered on the device from a set that was read once (a ``Loader``).

    Args:
        beton: the prepared file; its images are copied, so it may change or vanish afterwards.
        batch_size: samples a batch over all ranks, at least 1 a rank.
        seed: the data seed; decides with the epoch's number the order of its samples.
        device: where batches lie.
        subset: int [n] positions in the file, whose order gives the samples their index; all by default.
        host: keep the images in host memory and move every batch. By default they are kept on the device
            unless they would take more than half of its free memory.
        rank: which share of every batch this loader gives, from 0. All images are kept on every rank, since each
            epoch shuffles them anew.
        world: number of ranks.

    Raises:
        InputError: batch size below 1, a batch too small for its ranks, a rank that is not one of ``world``, or a
            subset that is empty or selects images that are not there.
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
        rank: int = 0,
        world: int = 1,
    ) -> None:
        chosen = check_subset(subset, beton.samples)
        labels = beton.labels if chosen is None else beton.labels[chosen]
        super().__init__(labels, batch_size=batch_size, seed=seed, device=device, rank=rank, world=world)
        images = beton.read_all() if chosen is None else beton.gather(chosen)
        self.image_shape = beton.image_shape
        self.on_host = _too_large(self.device, images.nbytes) if host is None else host
        # Rows, not images: gathering is faster over a matrix than over 4 dimensions.
        rows = torch.from_numpy(images.reshape(self.samples, -1))
        self._rows = rows if self.on_host else rows.to(self.device)

    def _images(
        self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]
    ) -> Generator[torch.Tensor, None, None]:
        on_cpu = self._rows.device.type == "cpu"
        for share in mine:
            if on_cpu:
                # numpy, on one core: where others use the cores too, torch's threads wait for each other, and a
                # batch takes index_select up to fifty times as long.
                rows = to_device(torch.from_numpy(self._rows.numpy().take(host[share].numpy(), axis=0)), self.device)
            else:
                rows = self._rows.index_select(0, there[share])
            yield rows.view(len(rows), *self.image_shape)


def _too_large(device: torch.device, image_bytes: int) -> bool:
    """Whether images would take more than half of a GPU's free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return image_bytes > free // 2
