"""The description of a data set, and the images and labels that reading its original gives."""

from __future__ import annotations

import dataclasses
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rt_scale.data.files import blocks, check_room, md5_of, reading, writing
from rt_scale.data.meta import DataInfo
from rt_scale.spec.errors import InputError

CHUNK = 4096
"""Images a chunk."""
PUBLISHED = "published values, as used throughout the literature; of the training images"


@dataclass(frozen=True)
class Download:
    """One original file at its publisher."""

    file: str
    url: str
    md5: str
    """Hexadecimal; empty if the publisher states none."""


def downloads(base: str, files: Mapping[str, str]) -> tuple[Download, ...]:
    """The files below the address ``base``, each with its MD5."""
    return tuple(Download(file, base + file, md5) for file, md5 in files.items())


@dataclass(frozen=True)
class Release:
    """One published form of an original."""

    files: tuple[str, ...]
    """Names of the files that are read, wherever in the archive they lie."""
    folder: str = ""
    """Name of the folder that the publisher's archive unpacks to."""
    archive: str = ""


@dataclass(frozen=True)
class Source:
    """The location of an original, and how to read it."""

    path: Path
    scratch: Path
    """A folder for unpacked files."""
    stack: ExitStack
    size: int | None = None
    """Side in pixels to which images are scaled; None: not scaled."""
    split_seed: int = 0
    """Seed of the split of a folder without train/ and test/."""


@dataclass(frozen=True, kw_only=True)
class DataSet(DataInfo):
    """A built-in data set: its description, the source of its original, and its reader."""

    read: Callable[[DataSet, Source], Original]
    releases: tuple[Release, ...] = ()
    """The forms of the original; none: it comes with an installed library."""
    downloads: tuple[Download, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    """File name -> MD5 of the official file; of idx files, uncompressed."""
    package: str = ""
    """Debian package that installs the original, or empty."""
    package_folder: str = ""
    scalable: bool = False
    """Whether ``read`` scales images to ``Source.size``."""

    @property
    def info(self) -> DataInfo:
        """The description alone, as in meta.json."""
        return DataInfo(**{each.name: getattr(self, each.name) for each in dataclasses.fields(DataInfo)})

    @property
    def advice(self) -> str:
        """How to replace a damaged original."""
        return f"Get it again from {self.downloads[0].url}." if self.downloads else "Get it again."

    def locate(self, path: Path) -> Path | None:
        """The folder or archive that has a release, by the names of its files: ``path``, or one in it."""
        if path.is_file():
            return path
        for each in self.releases:
            for folder in (path, path / each.folder):
                if all((folder / file).is_file() for file in each.files):
                    return folder
        archives = (path / each.archive for each in self.releases if each.archive)
        return next((archive for archive in archives if archive.is_file()), None)

    def check_md5(self, file: str, actual: str, shown: str) -> None:
        """InputError, which calls the file ``shown``, if a file of an official name does not have the official MD5."""
        expected = self.checksums.get(file, actual)
        if actual != expected:
            raise InputError(
                f"Wrong checksum: {shown} has MD5 {actual}, the official one {expected}: it is cut, damaged or of "
                f"another release. {self.advice}"
            )


@dataclass(frozen=True)
class Split:
    """Training or test images with their labels."""

    labels: np.ndarray
    """int64 [N]."""
    chunks: Callable[[], Iterator[np.ndarray]]
    """Makes an iterator over all images in order, uint8 [b, H, W, C]."""


@dataclass(frozen=True)
class Original:
    """An original as read; its images are decoded only when they are iterated over."""

    info: DataInfo
    train: Split
    test: Split
    notes: dict[str, str] = field(default_factory=dict)
    """Decisions made while reading: the split, resizing, files left out."""
    measure: bool = False
    """Whether mean and std must be measured on the training images."""
    noticed: Callable[[], dict[str, str]] = dict
    """More notes, complete once both splits have been iterated over."""

    def check(self) -> None:
        """InputError if the counts or labels differ from those in ``info``."""
        info = self.info
        for name, split, expected in (("training", self.train, info.train), ("test", self.test, info.test)):
            if len(split.labels) != expected:
                raise InputError(
                    f"The original of '{info.name}' holds {len(split.labels):,} {name} images, {expected:,} are "
                    "expected: it is incomplete or another release. Get the original again."
                )
            low, high = int(split.labels.min()), int(split.labels.max())
            if low < 0 or high >= len(info.classes):
                raise InputError(
                    f"Label {low if low < 0 else high} among the {name} images of '{info.name}' is out of range: "
                    f"its {len(info.classes)} classes are numbered from 0. It is damaged or another release."
                )


def in_memory(images: np.ndarray, labels: np.ndarray) -> Split:
    """A split of ``images`` in memory, uint8 [N, H, W, C]."""

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(images), CHUNK):
            yield np.ascontiguousarray(images[start : start + CHUNK])

    return Split(np.asarray(labels, np.int64), chunks)


def release_files(data: DataSet, source: Source) -> tuple[Release, dict[str, Path]]:
    """A release of ``data``, and its files by name; those of an archive are unpacked into the scratch folder.

    Raises:
        InputError: a file is missing or unreadable, or does not have its official MD5.
        RunError: the disk filled up while unpacking.
    """
    place = data.locate(source.path) or source.path
    there = {file.name: file for file in place.iterdir()} if place.is_dir() else _unpack(data, place, source.scratch)
    for release in data.releases:
        if there.keys() >= {*release.files}:
            files = {name: there[name] for name in release.files}
            for name in files.keys() & data.checksums.keys():
                data.check_md5(name, md5_of(files[name]), f"'{name}' in '{source.path}'")
            return release, files
    closest = max(data.releases, key=lambda each: len(there.keys() & {*each.files}))
    missing = [name for name in closest.files if name not in there]
    raise InputError(f"'{place}' does not hold {data.title}: {', '.join(missing)} missing. {data.advice}")


def _unpack(data: DataSet, path: Path, scratch: Path) -> dict[str, Path]:
    """Copy the files of all releases from any folder of a tar archive into ``scratch``; name -> copy.

    Security: a copy gets the member's last name, so that none can be written outside of ``scratch``.
    """
    wanted = {name for release in data.releases for name in release.files}
    files: dict[str, Path] = {}
    with reading(path, data.advice):
        if path.name in data.checksums:
            data.check_md5(path.name, md5_of(path), f"'{path}'")
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                content = archive.extractfile(member) if name in wanted and member.isfile() else None
                if content is not None:
                    target = files[name] = scratch / name
                    check_room(target, member.size)
                    with writing(target), open(target, "wb") as out:
                        out.writelines(blocks(content, path, data.advice))
                if len(files) == len(wanted):
                    break
    return files
