"""CIFAR-5M: about six million images sampled from a diffusion model of CIFAR-10, in numpy archives read as streams."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from rt_scale.data.datasets.base import CHUNK, DataSet, Original, Release, Source, Split, downloads, release_files
from rt_scale.data.datasets.cifar import CIFAR10
from rt_scale.data.files import reading
from rt_scale.spec.errors import InputError

_IMAGES, _LABELS = "X.npy", "Y.npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class _Part:
    path: Path
    labels: np.ndarray
    """int64 [n]."""
    note: str


def read_npz(data: DataSet, source: Source) -> Original:
    """Open the parts in a folder; the last is the test split. Images are read while the splits are iterated over.

    Raises:
        InputError: a part is missing or damaged, or has wrong shapes, types or labels. Damaged images raise it
            during the iteration, which also verifies the archives' checksums.
    """
    _, files = release_files(data, source)
    parts = [_open_part(data, file) for file in files.values()]
    train, test = _split(data, parts[:-1]), _split(data, parts[-1:])
    info = dataclasses.replace(data.info, train=len(train.labels), test=len(test.labels))
    return Original(info, train, test, notes={part.path.name: part.note for part in parts}, measure=True)


def _advice(data: DataSet, path: Path) -> str:
    return "".join(f"Get this part again from {each.url}." for each in data.downloads if each.file == path.name)


def _split(data: DataSet, parts: Sequence[_Part]) -> Split:
    def chunks() -> Iterator[np.ndarray]:
        for part in parts:
            yield from _stream(data, part)

    return Split(np.concatenate([part.labels for part in parts]), chunks)


def _open_part(data: DataSet, path: Path) -> _Part:
    with reading(path, _advice(data, path)), zipfile.ZipFile(path) as archive:
        with _member(archive, _IMAGES) as (_, shape, dtype):
            expected = (data.size, data.size, data.channels)
            if dtype != np.uint8 or shape[1:] != expected or shape[0] == 0:
                raise ValueError(f"its X is {dtype} {shape}, expected is uint8 (n, {', '.join(map(str, expected))})")
        with archive.open(_LABELS) as stream:
            labels = np.lib.format.read_array(stream)  # refuses pickled objects
        if labels.dtype.kind not in "iu" or labels.shape != shape[:1]:
            raise ValueError(
                f"its Y is {labels.dtype} {labels.shape}, expected is one integer for each of {shape[0]:,} images"
            )
        wrong = np.flatnonzero((labels < 0) | (labels >= len(data.classes)))
        if len(wrong):
            raise ValueError(
                f"label {labels[wrong[0]]} of image {wrong[0]:,} (of {len(labels):,}, from 0) is none of its "
                f"{len(data.classes)} classes, and so are {len(wrong) - 1:,} others"
            )
        sums = ", ".join(f"{name[0]} {archive.getinfo(name).CRC:08x}" for name in (_IMAGES, _LABELS))
    return _Part(path, labels.astype(np.int64), f"{len(labels):,} images, CRC-32 {sums}")


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """A member, positioned at its first value, its shape and type; ValueError if it is not a plain array."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"its {name} is of numpy's format {version}; known are {', '.join(map(str, _HEADERS))}")
        shape, fortran, dtype = _HEADERS[version](stream)
        length = stream.tell() + math.prod(shape) * dtype.itemsize
        if fortran or archive.getinfo(name).file_size != length:
            raise ValueError(f"its {name} is not a plain array of {dtype} {shape}")
        yield stream, shape, dtype


def _stream(data: DataSet, part: _Part) -> Iterator[np.ndarray]:
    """The images of a part, uint8 [b, H, W, C]; zipfile verifies the CRC-32 at the end."""
    shape = (data.size, data.size, data.channels)
    size, samples = math.prod(shape), len(part.labels)
    with contextlib.ExitStack() as stack:
        with reading(part.path, _advice(data, part.path)):
            archive = stack.enter_context(zipfile.ZipFile(part.path))
            stream, *_ = stack.enter_context(_member(archive, _IMAGES))
        for start in range(0, samples, CHUNK):
            count = min(CHUNK, samples - start)
            try:
                content = _exactly(stream, count * size)
            except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                raise InputError(
                    f"'{part.path}' is damaged: images {start:,} to {start + count - 1:,} of "
                    f"{samples:,} cannot be read (from byte {start * size:,} of its X): {error}. "
                    f"{_advice(data, part.path)}"
                ) from error
            yield np.frombuffer(content, np.uint8).reshape(count, *shape)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError(f"it ends {length - len(content):,} bytes early")
    return content


_URL = "https://storage.googleapis.com/gresearch/cifar5m/"
_PARTS = tuple(f"part{number}.npz" for number in range(6))
_IMAGES_A_PART = 1_000_448

CIFAR5M = DataSet(
    name="cifar5m",
    title="CIFAR-5M",
    classes=CIFAR10.classes,
    size=32,
    channels=3,
    train=5 * _IMAGES_A_PART,
    test=_IMAGES_A_PART,
    # Values found online (0.4555, 0.4362, 0.3415) have far less blue than CIFAR-10, and no stated source.
    mean=(),
    std=(),
    stats_source="measured on the training images of the parts that it was prepared from",
    origin="the six npz parts of Nakkiran, Neyshabur and Sedghi (arXiv 2010.08127); part0 to part4 to train, "
    "part5 held out",
    read=read_npz,
    releases=(Release(_PARTS),),
    downloads=downloads(_URL, dict.fromkeys(_PARTS, "")),
)
