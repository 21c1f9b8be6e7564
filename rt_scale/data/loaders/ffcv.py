"""The loader for sets that do not fit in memory: FFCV streams the prepared file."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Unpack

import numpy as np
import torch

from rt_scale.data.beton import Beton, identity_of, open_beton
from rt_scale.data.loaders.base import Images, Order, PreparedLoader, to_device
from rt_scale.spec.errors import InputError, RunError
from rt_scale.system.machine import allowed_cores
from rt_scale.system.paths import install_command

VERSION = "1.0.2"
"""The version of FFCV whose faults ``ffcv_patches`` fixes."""

_REMEDY = (
    f"Install it, and the OpenCV and libjpeg-turbo that it compiles against: {install_command('rt-scale[ffcv]')}. The "
    "resident loader and the memory map read the same prepared file without it: --loader resident, map or auto."
)


class FFCVLoader(PreparedLoader):
    """Batches streamed from the prepared file in threads.

    Args:
        beton: it is mapped, so it must not be cut or written to while the loader is used.
        subset, order: as in ``PreparedLoader``.
        threads: that read batches, at least 1; at most, and by default, the cores that this process may use.

    Raises:
        InputError: FFCV is missing, broken or of another version, the file is damaged or has changed since it was
            opened, or an argument is out of range.
    """

    def __init__(
        self, beton: Beton, *, subset: np.ndarray | None = None, threads: int | None = None, **order: Unpack[Order]
    ) -> None:
        super().__init__(beton, subset=subset, **order)
        patches = require_ffcv()
        cores = allowed_cores()
        self.threads = min(threads or cores, cores)
        # On a damaged file FFCV reads garbage or crashes.
        if open_beton(beton.path).identity != beton.identity:
            raise InputError(f"The prepared file '{beton.path}' is not the one that was opened; open it again.")
        self._identity = beton.identity
        self._file = patches.Images(beton.path)
        self._read_ahead = patches.ReadAhead

    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        refuse_changed(self._file.path, self._identity)
        places = self._places(host)
        ahead = self._read_ahead(self._file, (places[share] for share in mine), self.threads)
        try:
            for images in ahead:
                yield to_device(torch.from_numpy(images), self.device)
        finally:
            ahead.close()


def require_ffcv() -> ModuleType:
    """The module ``ffcv_patches``, whose import takes seconds; InputError if FFCV cannot be used."""
    try:
        installed = importlib.metadata.version("ffcv")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"The FFCV loader was asked for, but FFCV is not installed. {_REMEDY}") from None
    if installed != VERSION:
        raise InputError(
            f"FFCV {installed} is installed; rt-scale supports only {VERSION}, whose faults are known and "
            f"fixed. {_REMEDY}"
        )
    try:
        from rt_scale.data.loaders import ffcv_patches
    except ImportError as error:  # names a missing system library, e.g. libturbojpeg
        raise InputError(f"FFCV is installed but cannot be loaded: {error}. {_REMEDY}") from error
    return ffcv_patches


def refuse_changed(path: Path, identity: tuple[int, ...]) -> None:
    """RunError if the mapped file was written to; it may have been replaced or removed."""
    with contextlib.suppress(OSError):
        now = identity_of(path)
        if now[:2] == identity[:2] and now != identity:
            raise RunError(
                f"The prepared file '{path}' was written to while it was read. Nothing of rt-scale does that: prepare "
                "the set again, then resume."
            )
