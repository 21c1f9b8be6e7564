"""Which reader serves a run's training images, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from rt_scale.data.loaders.base import Loader, Order
from rt_scale.data.loaders.ffcv import FFCVLoader, require_ffcv
from rt_scale.data.loaders.gaussian import GaussianLoader
from rt_scale.data.loaders.memmap import MapLoader
from rt_scale.data.loaders.resident import Resident, ResidentLoader
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.run import RunSpec

SHARE = 0.5
"""Share of the free memory that images may take to be held in it."""
LOADERS = ("auto", "resident", "ffcv", "map")
DRAWN = "drawn"


class Choice(NamedTuple):
    """A reader, and why it was chosen, in words."""

    name: str
    """resident (images on the device), host (in host memory beside it), ffcv, map, or drawn (Gaussian inputs)."""
    reason: str


def choose_loader(asked: str, image_bytes: int, device: torch.device, free: Callable[[torch.device], int]) -> Choice:
    """The reader for ``image_bytes`` of training images; 0 where there are none to read.

    Args:
        asked: ``auto``, ``resident``, ``ffcv`` or ``map``; InputError for another.
        image_bytes: of all that the run uses.
        device: where it trains.
        free: free memory of a device in bytes.
    """
    if asked not in LOADERS:
        raise unknown_name("loader", asked, LOADERS)
    if not image_bytes:
        return Choice(DRAWN, "Gaussian inputs are made where they are used")
    if asked in ("ffcv", "map"):
        return Choice(asked, "asked for")
    host = torch.device("cpu")
    needed = f"{image_bytes / 1e6:,.1f} MB of images"
    for place in dict.fromkeys((device, host)):
        room = free(place)
        if image_bytes <= SHARE * room:
            name = "resident" if place == device else "host"
            return Choice(name, f"{needed} take less than {SHARE:.0%} of the {room / 1e9:,.1f} GB free on {place}")
    if asked == "resident":
        return Choice("host", f"asked for, though {needed} take more than {SHARE:.0%} of the free memory")
    reason = f"{needed} take more than {SHARE:.0%} of the free memory"
    try:
        require_ffcv()
    except InputError:
        return Choice("map", f"{reason}, and FFCV cannot be used here ('rt-scale doctor' says why)")
    return Choice("ffcv", reason)


def training_subset(spec: RunSpec, data: Prepared | NoiseSet) -> np.ndarray | None:
    """int64 [n] positions of the images that ``spec`` trains on; None for all."""
    if spec.data.samples is None or isinstance(data, NoiseSet):
        return None
    return nested_subset(data.train.labels, spec.data.samples, spec.seeds.data)


def training_loader(
    spec: RunSpec,
    data: Prepared | NoiseSet,
    loader: str,
    device: torch.device,
    subset: np.ndarray | None,
    *,
    dtype: torch.dtype = torch.float32,
    rank: int = 0,
    world: int = 1,
    resident: Resident | None = None,
) -> Loader:
    """The training images of ``spec``; the same batches in the same order from every reader.

    Args:
        spec: its ``data``, ``train.batch_size`` and ``seeds.data`` are read.
        data: its data set.
        loader: name of a ``Choice``; InputError for another, and where FFCV cannot be used.
        device: where batches are to lie.
        subset: see :func:`training_subset`.
        dtype: of images that are drawn.
        rank, world: whose share of every batch is read, and ranks that share it.
        resident: keeps images that are read into memory from run to run.
    """
    order: Order = {
        "batch_size": spec.train.batch_size, "seed": spec.seeds.data, "device": device, "rank": rank, "world": world,
    }  # fmt: skip
    if isinstance(data, NoiseSet):
        info = data.info
        return GaussianLoader(info.train, info.size, info.channels, data.sigma, dtype=dtype, **order)
    match loader:
        case "ffcv":
            # As many readers as the run computes with: other runs beside it have threads of their own.
            return FFCVLoader(data.train, subset=subset, threads=torch.get_num_threads(), **order)
        case "map":
            return MapLoader(data.train, subset=subset, **order)
        case "resident" | "host":
            return ResidentLoader(data.train, subset=subset, host=loader == "host", resident=resident, **order)
        case _:
            raise unknown_name("loader", loader, ("resident", "host", "ffcv", "map"))
