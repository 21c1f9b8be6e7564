"""CIFAR-10 and CIFAR-100: python (pickle) and binary release, as archive or unpacked."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rt_scale.data.catalogue import DataInfo
from rt_scale.data.datasets.original import Original, Split, in_memory
from rt_scale.data.datasets.pickles import load_arrays
from rt_scale.data.files import md5_of, reading
from rt_scale.spec.errors import InputError

_PIXELS = 32 * 32 * 3
_LARGEST = 1 << 28


@dataclass(frozen=True)
class Release:
    """One form that a CIFAR is published in."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str = ""
    """Key of the labels in a pickled batch; empty for the binary form."""
    label_bytes: int = 1
    """Label bytes a record of the binary form; the last one counts (CIFAR-100: coarse, fine)."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
RELEASES: dict[int, tuple[Release, Release]] = {
    10: (
        Release("cifar-10-batches-py", _BATCHES, ("test_batch",), labels="labels"),
        Release("cifar-10-batches-bin", tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",)),
    ),
    100: (
        Release("cifar-100-python", ("train",), ("test",), labels="fine_labels"),
        Release("cifar-100-binary", ("train.bin",), ("test.bin",), label_bytes=2),
    ),
}
"""By number of classes: the python and the binary release."""


def read_cifar(info: DataInfo, path: Path) -> Original:
    """Read a release from its archive, from its unpacked folder, or from the folder that holds either.

    Raises InputError, naming the file, for what is missing, cut, or of a wrong checksum.
    """
    releases = RELEASES[len(info.classes)]
    found = _from_folder(info, path, releases) if path.is_dir() else _from_archive(info, path, releases)
    for release in releases:
        if all(name in found for name in release.files):
            return Original(
                info,
                _split(info, release, release.train, found, path),
                _split(info, release, release.test, found, path),
                notes={"release": release.folder},
            )
    wanted = " or ".join(f"{', '.join(release.files)} ({release.folder})" for release in releases)
    raise InputError(
        f"'{path}' does not hold {info.title}: expected {wanted}; found {', '.join(sorted(found)) or 'none'}."
    )


def holds_cifar(info: DataInfo, folder: Path) -> bool:
    """Whether ``folder`` has an official archive or an unpacked release, complete by its names."""
    releases = RELEASES[len(info.classes)]
    return bool(_archives(info, folder)) or any(_unpacked(folder, release) for release in releases)


def _archives(info: DataInfo, folder: Path) -> list[Path]:
    names = [name for name, _ in info.checksums if name.endswith(".tar.gz")]
    return [folder / name for name in names if (folder / name).is_file()]


def _unpacked(path: Path, release: Release) -> Path | None:
    for folder in (path, path / release.folder):
        if all((folder / name).is_file() for name in release.files):
            return folder
    return None


def _advice(info: DataInfo) -> str:
    return f"Get it again from {info.downloads[0].url}." if info.downloads else "Get it again."


def _from_folder(info: DataInfo, path: Path, releases: tuple[Release, ...]) -> dict[str, bytes]:
    for release in releases:
        if folder := _unpacked(path, release):
            with reading(folder, _advice(info)):
                return {name: (folder / name).read_bytes() for name in release.files}
    archives = _archives(info, path)
    return _from_archive(info, archives[0], releases) if archives else {}


def _from_archive(info: DataInfo, path: Path, releases: tuple[Release, ...]) -> dict[str, bytes]:
    """The wanted members in memory; nothing is unpacked to disk, so no member can escape a folder."""
    advice = _advice(info)
    with reading(path, advice):
        actual = md5_of(path)
    expected = dict(info.checksums).get(path.name)
    if expected and actual != expected:
        raise InputError(
            f"Wrong checksum: '{path}' has MD5 {actual}, the official one {expected}; it is cut or damaged. {advice}"
        )
    wanted = {name for release in releases for name in release.files}
    found: dict[str, bytes] = {}
    with reading(path, advice), tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if name in wanted and member.isfile() and member.size <= _LARGEST:
                content = archive.extractfile(member)
                found[name] = content.read() if content else b""
    return found


def _split(info: DataInfo, release: Release, names: tuple[str, ...], found: Mapping[str, bytes], path: Path) -> Split:
    pixels, labels = [], []
    for name in names:
        content = found[name]
        expected = dict(info.checksums).get(name)
        actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if expected and actual != expected:
            raise InputError(
                f"Wrong checksum: '{name}' in '{path}' has MD5 {actual}, the official one {expected}. {_advice(info)}"
            )
        with reading(f"{path}: {name}", _advice(info)):
            batch, batch_labels = _pickled(content, release) if release.labels else _binary(content, release)
        pixels.append(batch)
        labels.append(batch_labels)
    planes = np.concatenate(pixels).reshape(-1, 3, 32, 32)
    return in_memory(planes.transpose(0, 2, 3, 1), np.concatenate(labels))


def _pickled(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a python batch; ValueError or UnpicklingError where it is not one."""
    batch = load_arrays(content)
    pixels, labels = batch.get("data"), batch.get(release.labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise ValueError(f"its 'data' are not uint8 rows of {_PIXELS:,} pixels")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(each) is int for each in labels):
        raise ValueError(f"its '{release.labels}' are not a list of {len(pixels)} integers")
    return pixels, np.array(labels, np.int64)


def _binary(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a binary batch; ValueError where records are cut."""
    record = release.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise ValueError(f"{len(content):,} bytes are not whole records of {record:,} bytes: truncated, or damaged")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, release.label_bytes :], records[:, release.label_bytes - 1].astype(np.int64)
