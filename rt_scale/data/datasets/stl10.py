"""STL-10 in its binary release, as archive or unpacked."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from rt_scale.data.datasets.images import at_size, chunk_length, scaled, workers
from rt_scale.data.datasets.original import Original, Split
from rt_scale.data.files import disk_full, md5_of, reading, writing
from rt_scale.data.info import DataInfo
from rt_scale.spec.errors import InputError

ARCHIVE = "stl10_binary.tar.gz"
FOLDER = "stl10_binary"
_SIZE = 96
_IMAGE = 3 * _SIZE * _SIZE

Part = Literal["train", "unlabeled"]


def read_stl10(info: DataInfo, path: Path, *, size: int | None = None, scratch: Path, part: Part = "train") -> Original:
    """Read the release from its archive, from its unpacked folder, or from the folder that holds either.

    Of an archive the files that are needed are unpacked into ``scratch``, under names of our own. Images are
    mapped, not read, and scaled a chunk at a time.

    Args:
        info: how many images there are to be, and the MD5 of the files.
        path: archive or folder.
        size: scale to size x size (bicubic, antialiased); mean and std are then to be measured, as where ``info``
            has none.
        scratch: a folder for what is unpacked.
        part: ``train`` for the labelled training images, ``unlabeled`` for those without labels, which all
            get label 0.

    Raises:
        InputError: naming the file, for one that is missing, cut, of a wrong checksum or with odd labels.
        RunError: the disk filled up while unpacking.
    """
    info, resized = at_size(info, size)
    images, labels = f"{part}_X.bin", f"{part}_y.bin"
    names = _names(part)
    notes = {"release": FOLDER, **resized}
    if part == "unlabeled":
        notes["labels"] = "the training images have none; all are written as 0"
    files = _files(info, path, names, scratch)
    for name in names:
        _verify(info, path, name, files[name])
    return Original(
        info,
        _split(path, info, files, images, labels),
        _split(path, info, files, "test_X.bin", "test_y.bin"),
        notes=notes,
        measure=bool(resized) or not info.mean,
    )


def holds_stl10(folder: Path, part: Part = "train") -> bool:
    """Whether ``folder`` has the archive, or the files of the release that ``part`` needs."""
    return (folder / ARCHIVE).is_file() or _unpacked(folder, _names(part)) is not None


def _names(part: Part) -> list[str]:
    """The files to read."""
    training = ["train_X.bin", "train_y.bin"] if part == "train" else ["unlabeled_X.bin"]
    return [*training, "test_X.bin", "test_y.bin"]


def _unpacked(path: Path, names: list[str]) -> Path | None:
    for folder in (path, path / FOLDER):
        if all((folder / name).is_file() for name in names):
            return folder
    return None


def _files(info: DataInfo, path: Path, names: list[str], scratch: Path) -> dict[str, Path]:
    """Where each of ``names`` lies, on disk."""
    if path.is_dir():
        if folder := _unpacked(path, names):
            return {name: folder / name for name in names}
        if not (path / ARCHIVE).is_file():
            found = sorted(each.name for each in path.iterdir())[:8]
            raise InputError(
                f"'{path}' does not hold {info.title}: expected {', '.join(names)}, in it or in '{FOLDER}', or "
                f"{ARCHIVE}; found {', '.join(found) or 'nothing'}."
            )
        path = path / ARCHIVE
    files = _unpack(info, path, names, scratch)
    if missing := [name for name in names if name not in files]:
        raise InputError(f"'{path}' does not hold {', '.join(missing)} of {info.title}. {_advice(info)}")
    return files


def _unpack(info: DataInfo, path: Path, names: list[str], scratch: Path) -> dict[str, Path]:
    """Copy ``names`` from the archive into ``scratch``, whatever folder it has them in; no more is read than that."""
    files: dict[str, Path] = {}
    with reading(path, _advice(info)), tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            content = archive.extractfile(member) if name in names and member.isfile() else None
            if content is not None:
                target = files[name] = scratch / name
                if (free := shutil.disk_usage(scratch).free) < member.size:
                    raise InputError(disk_full(target, f"{member.size:,} bytes are needed, {free:,} are free"))
                with open(target, "wb") as out:
                    while block := content.read(1 << 20):
                        with writing(target):
                            out.write(block)
            if len(files) == len(names):
                break
    return files


def _verify(info: DataInfo, path: Path, name: str, file: Path) -> None:
    with reading(file, _advice(info)):
        actual = md5_of(file)
    expected = dict(info.checksums).get(name)
    if expected and actual != expected:
        raise InputError(
            f"Wrong checksum: '{name}' in '{path}' has MD5 {actual}, the official one {expected}. {_advice(info)}"
        )


def _split(path: Path, info: DataInfo, files: dict[str, Path], images: str, labels: str) -> Split:
    with reading(f"{path}: {images}", _advice(info)):
        pixels = _map(files[images])
    if labels not in files:
        classes = np.zeros(len(pixels), np.int64)
    else:
        with reading(f"{path}: {labels}", _advice(info)):
            classes = _labels(files[labels], len(pixels), len(info.classes))
    return Split(classes, lambda: _chunks(pixels, info.size))


def _map(file: Path) -> np.ndarray:
    """uint8 [n, 96, 96, 3] of a file that holds channel by channel, and each of them column by column."""
    size = file.stat().st_size
    if size == 0 or size % _IMAGE:
        raise ValueError(f"{size:,} bytes are not whole images of {_IMAGE:,} bytes: truncated, or damaged")
    stored = np.memmap(file, np.uint8, "r").reshape(-1, 3, _SIZE, _SIZE)
    return stored.transpose(0, 3, 2, 1)


def _labels(file: Path, images: int, classes: int) -> np.ndarray:
    """int64 [n], from 0; the release counts from 1."""
    stored = np.fromfile(file, np.uint8).astype(np.int64)
    if len(stored) != images:
        raise ValueError(f"it holds {len(stored):,} labels for {images:,} images: truncated, or damaged")
    if len(odd := np.flatnonzero((stored < 1) | (stored > classes))):
        raise ValueError(f"label {stored[odd[0]]} of image {odd[0]} is out of range: they are 1 to {classes}")
    return stored - 1


def _chunks(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    length = chunk_length(max(size, _SIZE), 3)
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(pixels), length):
            chunk = np.ascontiguousarray(pixels[start : start + length])
            yield chunk if size == _SIZE else np.stack(list(pool.map(lambda each: _resized(each, size), chunk)))


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(scaled(Image.fromarray(pixels), size))


def _advice(info: DataInfo) -> str:
    return f"Get it again from {info.downloads[0].url}."
