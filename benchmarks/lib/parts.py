"""Synthetic parts of CIFAR-5M in the true format, written as a stream."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

POOL, SHAPE, IMAGE = 4096, (32, 32, 3), 3072
HELD_OUT = 10_000
"""Images of the sixth part, or as many as of the others where those have fewer."""


def synthetic(start: int, count: int) -> Iterator[np.ndarray]:
    """Images ``start`` to ``start + count``, uint8 [b, 32, 32, 3], the first 8 bytes of each its number."""
    generator = np.random.Generator(np.random.PCG64(0))
    pool = np.cumsum(generator.integers(-6, 7, (POOL, IMAGE)), axis=1).astype(np.uint8)
    for first in range(start, start + count, POOL):
        images = pool[: min(POOL, start + count - first)].copy()
        images[:, :8] = np.arange(first, first + len(images)).view(np.uint8).reshape(-1, 8)
        yield images.reshape(-1, *SHAPE)


def write_part(path: Path, start: int, count: int, compression: int) -> None:
    """An npz as np.savez writes it, without holding it in memory."""
    labels = np.random.Generator(np.random.PCG64(start)).integers(0, 10, count)
    level = 1 if compression == zipfile.ZIP_DEFLATED else None
    with zipfile.ZipFile(path, "w", compression, compresslevel=level) as archive:
        with archive.open("X.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
            np.lib.format.write_array_header_1_0(member, header)
            for images in synthetic(start, count):
                member.write(images.data)
        with archive.open("Y.npy", "w") as member:
            np.lib.format.write_array(member, labels)
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # so that the disk is not still busy with it when something is measured


def write_parts(folder: Path, images: int, deflated: bool) -> None:
    """Five parts of a fifth of the images each, and one that is held out."""
    each = images // 5
    for number in range(6):
        count = each if number < 5 else min(each, HELD_OUT)
        compression = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
        write_part(folder / f"part{number}.npz", number * each, count, compression)
