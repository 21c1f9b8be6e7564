"""The loader for sets that do not fit in memory if FFCV cannot be used: batches are gathered from a memory map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import Images, Order, PreparedLoader, to_device


class MapLoader(PreparedLoader):
    """Batches gathered from the mapped file; processes share its pages."""

    def __init__(self, beton: Beton, *, subset: np.ndarray | None = None, **order: Unpack[Order]) -> None:
        super().__init__(beton, subset=subset, **order)
        self._beton = beton

    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        for share in mine:
            yield to_device(torch.from_numpy(self._beton.gather(self._places(host[share]))), self.device)
