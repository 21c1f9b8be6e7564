"""The choice of the loader of a run's training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from rt_scale.data.loaders.base import Loader, MapLoader, Order
from rt_scale.data.loaders.ffcv import FFCVLoader, require_ffcv
from rt_scale.data.loaders.gaussian import GaussianLoader
from rt_scale.data.loaders.resident import Resident, ResidentLoader
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.data.subsets import nested_subset
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.experiments.training import TrainingSpec

SHARE = 0.5
"""Share of the free memory that resident images may take."""
LOADERS = ("auto", "resident", "ffcv", "map")
DRAWN = "drawn"


class Choice(NamedTuple):
    """A loader and the reason for its choice, a phrase."""

    name: str
    """resident (images on the device), host (in host memory), ffcv, map, or drawn (Gaussian inputs)."""
    reason: str


def choose_loader(asked: str, image_bytes: int, device: torch.device, free: Callable[[torch.device], int]) -> Choice:
    """The loader for a run's training images.

    Args:
        asked: one of ``LOADERS``; InputError otherwise.
        image_bytes: of all training images; 0 for Gaussian inputs.
        free: returns the free memory of a device in bytes.
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


def training_subset(spec: TrainingSpec, data: Prepared | NoiseSet) -> np.ndarray | None:
    """Positions of the images that ``spec`` trains on, int64 [n]; None for all."""
    if spec.data.samples is None or isinstance(data, NoiseSet):
        return None
    return nested_subset(data.train.labels, spec.data.samples, spec.seeds.data)


def training_loader(
    spec: TrainingSpec,
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
    """The loader of the training images of ``spec``; all loaders give the same batches in the same order.

    Args:
        spec: its ``data``, ``train.batch_size`` and ``seeds`` are used.
        loader: name of a ``Choice``; InputError if it is unknown, or FFCV cannot be used.
        subset: see :func:`training_subset`.
        dtype: of Gaussian inputs.
        rank, world: as in ``Loader``.
        resident: keeps images in memory between runs.
    """
    batch_size, seed = spec.train.batch_size, spec.seeds.ordering
    order: Order = {"batch_size": batch_size, "seed": seed, "device": device, "rank": rank, "world": world}
    if isinstance(data, NoiseSet):
        info, drawn = data.info, spec.seeds.data
        return GaussianLoader(info.train, info.size, info.channels, data.sigma, drawn=drawn, dtype=dtype, **order)
    match loader:
        case "ffcv":
            # As many threads as the run computes with, since other runs may share the machine.
            return FFCVLoader(data.train, subset=subset, threads=torch.get_num_threads(), **order)
        case "map":
            return MapLoader(data.train, subset=subset, **order)
        case "resident" | "host":
            return ResidentLoader(data.train, subset=subset, host=loader == "host", resident=resident, **order)
        case _:
            raise unknown_name("loader", loader, ("resident", "host", "ffcv", "map"))
