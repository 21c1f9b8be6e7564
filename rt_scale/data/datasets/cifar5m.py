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

from rt_scale.data.datasets.cifar import CIFAR10
from rt_scale.data.datasets.original import CHUNK, Original, Split
from rt_scale.data.files import reading
from rt_scale.data.info import DataInfo, downloads
from rt_scale.spec.errors import InputError

_IMAGES, _LABELS = "X.npy", "Y.npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class _Part:
    path: Path
    labels: np.ndarray
    """int64 [n]."""
    note: str
    """Its contents and their checksums."""


def read_npz(info: DataInfo, folder: Path) -> Original:
    """Open the parts that ``info.downloads`` names: all but the last are to train on, the last is held out.

    Headers and labels are read here; images only as the splits are iterated over, a chunk at a time. The
    parts say how many images there are; mean and standard deviation are measured. The checksums recorded in
    the notes are those of the archives, which the pass over the images verifies.

    Raises:
        InputError: a part is missing, damaged, of other shapes or types, or with labels that are no class. The
            splits raise it, too, where the pass comes upon damage; it then says behind which image.
    """
    missing = [name for name in _names(info) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"'{folder}' does not hold all parts of {info.title}: {', '.join(missing)} missing. Give the folder "
            f"that holds {', '.join(_names(info))}; the missing ones come from {_address(info, missing[0])}."
        )
    parts = [_open_part(info, folder / name) for name in _names(info)]
    train, test = _split(info, parts[:-1]), _split(info, parts[-1:])
    counted = dataclasses.replace(info, train=len(train.labels), test=len(test.labels))
    return Original(counted, train, test, notes={part.path.name: part.note for part in parts}, measure=True)


def holds_npz(info: DataInfo, folder: Path) -> bool:
    """Whether every part is in ``folder``."""
    return all((folder / name).is_file() for name in _names(info))


def _names(info: DataInfo) -> list[str]:
    return [each.file for each in info.downloads]


def _address(info: DataInfo, name: str) -> str:
    return next(each.url for each in info.downloads if each.file == name)


def _advice(info: DataInfo, path: Path) -> str:
    return f"Get this part again from {_address(info, path.name)}."


def _split(info: DataInfo, parts: Sequence[_Part]) -> Split:
    def chunks() -> Iterator[np.ndarray]:
        for part in parts:
            yield from _stream(info, part)

    return Split(np.concatenate([part.labels for part in parts]), chunks)


def _open_part(info: DataInfo, path: Path) -> _Part:
    """Check both members' headers, and read the labels."""
    with reading(path, _advice(info, path)), zipfile.ZipFile(path) as archive:
        with _member(archive, _IMAGES) as (_, shape, dtype):
            expected = (info.size, info.size, info.channels)
            if dtype != np.uint8 or shape[1:] != expected or shape[0] == 0:
                raise ValueError(f"its X is {dtype} {shape}, expected is uint8 (n, {', '.join(map(str, expected))})")
        with _member(archive, _LABELS) as (stream, counts, kind):
            if kind.kind not in "iu" or counts != shape[:1]:
                raise ValueError(f"its Y is {kind} {counts}, expected is one integer for each of {shape[0]:,} images")
            labels = np.frombuffer(_exactly(stream, shape[0] * kind.itemsize), kind)
        wrong = np.flatnonzero((labels < 0) | (labels >= len(info.classes)))
        if len(wrong):
            raise ValueError(
                f"label {labels[wrong[0]]} of image {wrong[0]:,} (of {len(labels):,}, from 0) is none of its "
                f"{len(info.classes)} classes, and so are {len(wrong) - 1:,} others"
            )
        sums = ", ".join(f"{name[0]} {archive.getinfo(name).CRC:08x}" for name in (_IMAGES, _LABELS))
    return _Part(path, labels.astype(np.int64), f"{len(labels):,} images, CRC-32 {sums}")


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """A member at its first value, with shape and type; ValueError where it is no plain array of its length."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"its {name} is of numpy's format {version}; known are {', '.join(map(str, _HEADERS))}")
        shape, fortran, dtype = _HEADERS[version](stream)
        length = stream.tell() + math.prod(shape) * dtype.itemsize
        if fortran or archive.getinfo(name).file_size != length:
            raise ValueError(f"its {name} is not a plain array of {dtype} {shape}")
        yield stream, shape, dtype


def _stream(info: DataInfo, part: _Part) -> Iterator[np.ndarray]:
    """The images of a part, uint8 [b, H, W, C]; as the last is read, zipfile compares the recorded CRC-32."""
    shape = (info.size, info.size, info.channels)
    size, samples = math.prod(shape), len(part.labels)
    with contextlib.ExitStack() as stack:
        with reading(part.path, _advice(info, part.path)):
            archive = stack.enter_context(zipfile.ZipFile(part.path))
            stream, *_ = stack.enter_context(_member(archive, _IMAGES))
        for start in range(0, samples, CHUNK):
            count = min(CHUNK, samples - start)
            try:
                content = _exactly(stream, count * size)
            except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                raise InputError(
                    f"'{part.path}' is damaged, which showed while images {start:,} to {start + count - 1:,} of "
                    f"{samples:,} were read (from byte {start * size:,} of its X): {error}. "
                    f"{_advice(info, part.path)}"
                ) from error
            yield np.frombuffer(content, np.uint8).reshape(count, *shape)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    content = stream.read(length)
    if len(content) < length:
        raise EOFError(f"it ends {length - len(content):,} bytes early")
    return content


_URL = "https://storage.googleapis.com/gresearch/cifar5m/"
_IMAGES_A_PART = 1_000_448

CIFAR5M = DataInfo(
    name="cifar5m",
    title="CIFAR-5M",
    classes=CIFAR10.classes,
    size=32,
    channels=3,
    train=5 * _IMAGES_A_PART,
    test=_IMAGES_A_PART,
    # Values in circulation (0.4555, 0.4362, 0.3415) have far less blue than CIFAR-10, and no stated source.
    mean=(),
    std=(),
    stats_source="measured on the training images of the parts that it was prepared from",
    origin="the six npz parts of Nakkiran, Neyshabur and Sedghi (arXiv 2010.08127); part0 to part4 to train, "
    "part5 held out",
    reader="npz",
    downloads=downloads(_URL, {f"part{number}.npz": "" for number in range(6)}),
)
