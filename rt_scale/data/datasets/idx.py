"""idx files, as MNIST and Fashion-MNIST come, plain or gzipped."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.datasets.original import Original, Split, in_memory
from rt_scale.data.files import reading
from rt_scale.spec.errors import InputError

_LABELS, _IMAGES = 0x801, 0x803


def read_idx(info: DataInfo, folder: Path) -> Original:
    """Read the four files in ``folder``.

    Raises InputError, naming the file, for one that is missing, cut, of other contents than the official
    release (MD5 of the uncompressed file) or not what its name says.
    """
    if not folder.is_dir():
        raise InputError(
            f"'{folder}' is not a folder. '{info.name}' is read from a folder with the four files "
            f"{', '.join(file for file in FILES)} (or with .gz behind each)."
        )
    return Original(info, _split(info, folder, "train"), _split(info, folder, "t10k"))


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def holds_idx(folder: Path) -> bool:
    """Whether all four files are in ``folder``."""
    return all(_find(folder, name) for name in FILES)


def _find(folder: Path, name: str) -> Path | None:
    # Some mirrors write train-images.idx3-ubyte.
    for candidate in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (path := folder / (candidate + suffix)).is_file():
                return path
    return None


def _split(info: DataInfo, folder: Path, part: str) -> Split:
    images = _array(info, folder, f"{part}-images-idx3-ubyte", _IMAGES)
    labels = _array(info, folder, f"{part}-labels-idx1-ubyte", _LABELS)
    if images.shape[1:] != (info.size, info.size) or len(images) != len(labels):
        raise InputError(
            f"The {part} files in '{folder}' hold images of {images.shape} and {len(labels)} labels; "
            f"'{info.name}' has {info.size} x {info.size} pixels and a label an image."
        )
    return in_memory(images[..., None], labels)


def _array(info: DataInfo, folder: Path, name: str, magic: int) -> np.ndarray:
    path = _find(folder, name)
    if path is None:
        raise InputError(
            f"'{name}' (or '{name}.gz') is missing in '{folder}'. Put all four files of '{info.name}' there."
        )
    advice = f"Get the file again; '{info.name}' comes from: {info.origin}."
    with reading(path, advice), open(path, "rb") as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        content = stream.read(_limit(info))
    expected = dict(info.checksums).get(name)
    with reading(path, advice):
        array = _parse(content, magic)
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected and actual != expected:
        raise InputError(
            f"Wrong checksum: the contents of '{path}' have MD5 {actual}, the official '{name}' has "
            f"{expected}. {advice}"
        )
    return array


def _limit(info: DataInfo) -> int:
    """Bytes that the largest honest file holds, and some: a gzip bomb is not unpacked."""
    return max(info.train, info.test) * info.size**2 + 4096


def _parse(content: bytes, magic: int) -> np.ndarray:
    """uint8 of the dimensions that the header announces; ValueError where the header or length is wrong."""
    dimensions = magic & 0xFF
    header = np.frombuffer(content[: 4 * (1 + dimensions)], ">u4")
    if len(header) < 1 + dimensions or header[0] != magic:
        raise ValueError("it does not begin like the idx file its name announces")
    shape = tuple(int(each) for each in header[1:])
    values = np.frombuffer(content, np.uint8, offset=header.nbytes)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"its header announces {shape}, it holds {values.size:,} bytes: truncated, or damaged")
    return values.reshape(shape)
