"""Image files to arrays: decoded in threads, in chunks, scaled where that is asked for."""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rt_scale.data.datasets.members import Parts
from rt_scale.data.datasets.original import CHUNK
from rt_scale.data.datasets.tree import Tree
from rt_scale.data.datasets.upright import CHANGES, plain, unidentified
from rt_scale.data.files import reading
from rt_scale.data.info import DataInfo
from rt_scale.spec.errors import InputError
from rt_scale.spec.wording import counted, printable
from rt_scale.system.machine import allowed_cores

_DEEP = ("I", "F")
_CHUNK_BYTES = 1 << 24

# Of odd tags and of images between PIL's limit and twice that, which are read. Errors are ours to report.
warnings.filterwarnings("ignore", module=r"PIL\.")


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
    changed: dict[str, set[Parts]] = field(default_factory=lambda: {change: set() for change in CHANGES})
    """The images decoded so far that were changed on the way, by ``CHANGES``."""

    def chunks(self, images: Sequence[Parts]) -> Iterator[np.ndarray]:
        """All ``images`` in order, uint8 [b, size, size, channels]; PIL decodes in threads."""
        with ThreadPoolExecutor(workers()) as pool:
            length = chunk_length(self.size, self.channels)
            for start in range(0, len(images), length):
                yield np.stack(list(pool.map(self.decode, images[start : start + length])))

    def decode(self, parts: Parts) -> np.ndarray:
        """One image, uint8 [size, size, channels]; InputError, naming it, where it cannot be."""
        with opened(self.tree, parts) as image:
            pixels, changes = plain(image, self.channels)
            for change in changes:
                self.changed[change].add(parts)
            if self.resize:
                pixels = scaled(pixels, self.size)
            if pixels.size != (self.size, self.size):
                width, height = pixels.size
                raise InputError(
                    f"The image '{name_of(self.tree, parts)}' has {width} x {height} pixels, others have "
                    f"{self.size} x {self.size}. Say --size {self.size}, or another size, to make them equal."
                )
            return np.asarray(pixels).reshape(self.size, self.size, self.channels)

    def notes(self) -> dict[str, str]:
        """What was changed in the images decoded so far, for the record."""
        return {
            change: f"{counted(len(images), 'image')} {CHANGES[change]}, e.g. '{printable('/'.join(min(images)))}'"
            for change, images in self.changed.items()
            if images
        }


@contextmanager
def opened(tree: Tree, parts: Parts) -> Iterator[Image.Image]:
    """An image of the tree, of which only the header is read yet; whatever fails inside names the file."""
    name = name_of(tree, parts)
    with reading(name, "Remove the file, or replace it by a readable 8-bit image."):
        content = tree.read(parts)
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode.startswith(_DEEP):
                    raise ValueError(f"its pixels are of mode {image.mode}, not 8 bits a channel")
                yield image
        except UnidentifiedImageError:
            raise ValueError(unidentified(content)) from None
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise InputError(
                f"The image '{name}' has more than {most:,} pixels, which is too many to be decoded. Scale it down "
                "before, or leave it out."
            ) from None


def name_of(tree: Tree, parts: Parts) -> str:
    """The path of a file of the tree, for messages."""
    return printable(os.path.join(tree.root, *parts))


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
