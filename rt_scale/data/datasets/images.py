"""Image files to arrays: decoded in threads, rotated upright, composed on white, scaled on request."""

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
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from rt_scale.data.datasets.base import CHUNK
from rt_scale.data.datasets.tree import Parts, Tree
from rt_scale.data.files import reading
from rt_scale.data.meta import DataInfo
from rt_scale.spec.errors import InputError, counted, printable
from rt_scale.system.machine import allowed_cores

GREY = frozenset(["1", "L", "LA"])
_DEEP = ("I", "F")
"""Prefixes of PIL's modes of more than 8 bits a channel."""
_CHUNK_BYTES = 1 << 24

CHANGES = {
    "orientation": "turned or mirrored as EXIF says",
    "transparency": "composed on white",
    "several pictures": "of several frames or pages, of which the first is taken",
    "16 bits a channel": "read at 8 bits",
    "CMYK": "converted to red, green and blue without a colour profile",
    "grey": "without colour among others that have it",
}
"""Changes made to images -> their wording after a number of images."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation; ``ImageOps.exif_transpose`` also rewrites other tags, and fails on invalid ones."""

# About invalid tags, and images of up to twice PIL's limit, which are read.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Decoder:
    """Decodes images of a tree to uint8 [size, size, channels]."""

    tree: Tree
    size: int
    channels: int
    """1: all images become grey; 3: all become colour."""
    resize: bool
    """Whether images are scaled to ``size``; otherwise another size raises InputError."""
    changed: dict[str, set[Parts]] = field(default_factory=lambda: {change: set() for change in CHANGES})
    """The images decoded so far that were changed, by ``CHANGES``."""

    def chunks(self, images: Sequence[Parts]) -> Iterator[np.ndarray]:
        """All ``images`` in order, uint8 [b, size, size, channels]; PIL decodes in threads."""
        with ThreadPoolExecutor(workers()) as pool:
            length = chunk_length(self.size, self.channels)
            for start in range(0, len(images), length):
                yield np.stack(list(pool.map(self._decode, images[start : start + length])))

    def _decode(self, parts: Parts) -> np.ndarray:
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
        """Notes on the changes to the images decoded so far."""
        return {
            change: f"{counted(len(images), 'image')} {CHANGES[change]}, e.g. '{printable('/'.join(min(images)))}'"
            for change, images in self.changed.items()
            if images
        }


@contextmanager
def opened(tree: Tree, parts: Parts) -> Iterator[Image.Image]:
    """An image of the tree, with only its header decoded; errors inside the context name the file."""
    name = name_of(tree, parts)
    with reading(name, "Remove the file, or replace it by a readable 8-bit image."):
        content = tree.read(parts)
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode.startswith(_DEEP):
                    raise ValueError(f"its pixels are of mode {image.mode}, not 8 bits a channel")
                yield image
        except UnidentifiedImageError:
            raise ValueError(f"it is no image of a known format; it begins with {content[:12]!r}") from None
        except Image.DecompressionBombError:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise InputError(
                f"The image '{name}' has more than {most:,} pixels, which is too many to be decoded. Scale it down "
                "before, or leave it out."
            ) from None


def plain(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    """The first picture of an opened image in mode L (1 channel) or RGB (3), and the ``CHANGES`` made to it."""
    made = {"several pictures": getattr(image, "is_animated", False), "16 bits a channel": _is_deep(image)}
    before = _orientation(image)
    image.load()  # rotates TIFF, and reads the tags that PNG has after its pixels
    turn = _orientation(image)
    made["orientation"] = before in _TURNS or turn in _TURNS
    made |= {"CMYK": image.mode == "CMYK", "grey": channels == 3 and image.mode in GREY}
    picture = image.transpose(_TURNS[turn]) if turn in _TURNS else image
    if picture.has_transparency_data or picture.mode == "P":
        picture = picture.convert("RGBA")
        lowest, _ = picture.getchannel("A").getextrema()
        made["transparency"] = lowest != 255
        if made["transparency"]:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if channels == 1 else "RGB"), [name for name in CHANGES if made.get(name)]


def _is_deep(image: Image.Image) -> bool:
    """Whether colours have 16 bits; PIL keeps the upper 8."""
    return any(";16" in str(part[3]) for part in getattr(image, "tile", []))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) by default."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # invalid EXIF raises nearly any exception; the pixels may be fine
        return 1
    return value if isinstance(value, int) else 1


def name_of(tree: Tree, parts: Parts) -> str:
    """The printable path of a file of the tree."""
    return printable(os.path.join(tree.root, *parts))


def scaled(image: Image.Image, size: int) -> Image.Image:
    """``image`` at size x size pixels: scaled (bicubic, antialiased) and cropped in the middle."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def scaling_note(size: int | None) -> dict[str, str]:
    """A note on ``scaled``, empty for None; InputError for a size below 1."""
    if size is not None and size < 1:
        raise InputError(f"Images cannot be resized to {size} pixels; --size must be at least 1.")
    return (
        {}
        if size is None
        else {"resized": f"to {size} x {size}: scaled (bicubic, antialiased), then cropped in the middle"}
    )


def at_size(info: DataInfo, size: int | None) -> tuple[DataInfo, dict[str, str]]:
    """The description of a built-in set scaled to size x size, and a note; unchanged for None and its own size."""
    note = scaling_note(size)
    if size is None or size == info.size:
        return info, {}
    return dataclasses.replace(
        info, size=size, stats_source=f"measured on the training images at {size} x {size}"
    ), note


def chunk_length(size: int, channels: int) -> int:
    """Images a chunk: fewer if they are large."""
    return max(1, min(CHUNK, _CHUNK_BYTES // (size**2 * channels)))


def workers() -> int:
    """Threads that decode or scale."""
    return min(4, allowed_cores())
