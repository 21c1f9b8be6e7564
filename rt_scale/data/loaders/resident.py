"""The loader for sets that fit in memory: all images as uint8 on the device or in host memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Unpack

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import Images, Order, PreparedLoader, to_device

LARGEST_IDLE = 512 << 20
"""Bytes of images that are kept although the present run does not use them."""
RUNS = 2
"""Images of this many previous runs are kept, since a sweep may alternate between two data sets."""

_Key = tuple[object, ...]


class Resident:
    """Images that a process keeps in memory between runs, for later runs that read the same ones.

    It keeps those of the present run and of the :data:`RUNS` before. When the present run reads others, unused images
    are dropped first if they take more than :data:`LARGEST_IDLE`.
    """

    def __init__(self) -> None:
        self._kept: dict[_Key, torch.Tensor] = {}
        self._used: dict[_Key, int] = {}
        self._run = 0

    def next_run(self) -> None:
        """Note that another run begins."""
        self._run += 1
        self._drop(key for key, run in self._used.items() if run < self._run - RUNS)

    def rows(self, beton: Beton, chosen: np.ndarray | None, place: torch.device) -> torch.Tensor:
        """One image a row, uint8 [n, H * W * C], not to be written to; gathering rows of a matrix is faster.

        ``beton`` is identified by its path and ``identity``; ``chosen`` are int64 [n] positions in it, None: all.
        """
        which = None if chosen is None else hashlib.sha256(chosen.tobytes()).hexdigest()
        key = (beton.path.absolute(), beton.identity, which, str(place))
        if key not in self._kept:
            self._make_room()
            images = beton.read_all() if chosen is None else beton.gather(chosen)
            self._kept[key] = torch.from_numpy(images.reshape(len(images), -1)).to(place)
        self._used[key] = self._run
        return self._kept[key]

    def held(self, place: torch.device) -> int:
        """Bytes of images kept in the memory of ``place``."""
        return sum(
            rows.nbytes
            for rows in self._kept.values()
            if rows.device.type == place.type and place.index in (None, rows.device.index)
        )

    def clear(self) -> None:
        """Drop all images."""
        self._drop(self._kept)

    def _make_room(self) -> None:
        idle = [key for key, run in self._used.items() if run < self._run]
        if sum(self._kept[key].nbytes for key in idle) > LARGEST_IDLE:
            self._drop(idle)

    def _drop(self, keys: Iterable[_Key]) -> None:
        dropped = [(self._kept.pop(key), self._used.pop(key)) for key in list(keys)]
        if any(rows.is_cuda for rows, _ in dropped):
            del dropped
            torch.cuda.empty_cache()  # for other processes on the device


class ResidentLoader(PreparedLoader):
    """Batches gathered from images in memory; every rank holds all images, since each epoch shuffles them.

    Args:
        beton: it may change or be removed afterwards.
        subset, order: as in ``PreparedLoader``.
        host: keep the images in host memory and move every batch.
        resident: shared storage of images; None: none is shared.
    """

    def __init__(
        self,
        beton: Beton,
        *,
        subset: np.ndarray | None = None,
        host: bool = False,
        resident: Resident | None = None,
        **order: Unpack[Order],
    ) -> None:
        super().__init__(beton, subset=subset, **order)
        place = torch.device("cpu") if host else self.device
        self._rows = (resident or Resident()).rows(beton, self._chosen, place)

    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        on_cpu = self._rows.device.type == "cpu"
        for share in mine:
            if on_cpu:
                # numpy, on one core: on busy cores torch's threads wait for each other, and index_select takes up to
                # fifty times as long.
                rows = to_device(torch.from_numpy(self._rows.numpy().take(host[share].numpy(), axis=0)), self.device)
            else:
                rows = self._rows.index_select(0, there[share])
            yield rows.view(len(rows), *self.image_shape)
