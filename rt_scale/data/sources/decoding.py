"""Image files to arrays: decoded in threads, in chunks, scaled where that is asked for."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from rt_scale.data.files import reading
from rt_scale.data.info import DataInfo
from rt_scale.data.machine import allowed_cores
from rt_scale.data.sources.original import CHUNK
from rt_scale.data.sources.tree import Tree
from rt_scale.spec.errors import InputError

GREY = frozenset(["1", "L", "LA"])
"""Modes of PIL without colour."""
_DEEP = ("I", "F")
_CHUNK_BYTES = 1 << 24

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """Decodes images of a tree to uint8 [size, size, channels]."""

    tree: Tree
    size: int
    """Pixels; images of other sizes are refused, unless ``resize``."""
    channels: int
    """1 makes all of them grey, 3 makes all of them colour."""
    resize: bool
    """Whether images are scaled to ``size``."""

    def chunks(self, images: Sequence[Parts]) -> Iterator[np.ndarray]:
        """All ``images`` in order, uint8 [b, size, size, channels]; PIL decodes in threads."""
        with ThreadPoolExecutor(workers()) as pool:
            length = chunk_length(self.size, self.channels)
            for start in range(0, len(images), length):
                yield np.stack(list(pool.map(self.decode, images[start : start + length])))

    def decode(self, parts: Parts) -> np.ndarray:
        """One image, uint8 [size, size, channels]; InputError, naming it, where it cannot be."""
        with opened(self.tree, parts) as image:
            pixels = image.convert("RGBA") if image.mode == "P" else image
            pixels = pixels.convert("L" if self.channels == 1 else "RGB")
            if self.resize:
                pixels = scaled(pixels, self.size)
            if pixels.size != (self.size, self.size):
                width, height = pixels.size
                raise InputError(
                    f"The image '{name_of(self.tree, parts)}' has {width} x {height} pixels, others have "
                    f"{self.size} x {self.size}. Say --size {self.size}, or another size, to make them equal."
                )
            return np.asarray(pixels).reshape(self.size, self.size, self.channels)


@contextmanager
def opened(tree: Tree, parts: Parts) -> Iterator[Image.Image]:
    """An image of the tree, of which only the header is read yet; whatever fails inside names the file."""
    advice = "Remove the file, or replace it by a readable 8-bit image."
    with reading(name_of(tree, parts), advice), Image.open(io.BytesIO(tree.read(parts))) as image:
        if image.mode.startswith(_DEEP):
            raise ValueError(f"its pixels are of mode {image.mode}, not 8 bits a channel")
        yield image


def name_of(tree: Tree, parts: Parts) -> str:
    """The path of a file of the tree, for messages."""
    return os.path.join(tree.root, *parts)


def scaled(image: Image.Image, size: int) -> Image.Image:
    """``image`` at size x size pixels: scaled (bicubic, antialiased) and cropped in the middle."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def scaling_note(size: int) -> str:
    """What ``scaled`` does, for the record."""
    return f"to {size} x {size}: scaled (bicubic, antialiased), then cropped in the middle"


def at_size(info: DataInfo, size: int | None) -> tuple[DataInfo, dict[str, str]]:
    """A set of the catalogue scaled to size x size, with the note of it; as it is for None and its own size.

    Published statistics are of the published size: those of another are to be measured.
    """
    check_size(size)
    if size is None or size == info.size:
        return info, {}
    source = f"measured on the training images at {size} x {size}"
    return dataclasses.replace(info, size=size, stats_source=source), {"resized": scaling_note(size)}


def check_size(size: int | None) -> None:
    """InputError where images cannot be scaled to ``size`` pixels."""
    if size is not None and size < 1:
        raise InputError(f"Images cannot be resized to {size} pixels; --size must be at least 1.")


def chunk_length(size: int, channels: int) -> int:
    """Images of size x size pixels a chunk: a few, where they are large."""
    return max(1, min(CHUNK, _CHUNK_BYTES // (size**2 * channels)))


def workers() -> int:
    """Threads that decode or scale."""
    return min(4, allowed_cores())
