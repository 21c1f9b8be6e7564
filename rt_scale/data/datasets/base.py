"""What a data set is, where its original is and how it is read, and what reading it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from rt_scale.spec.errors import InputError

CHUNK = 4096
"""Images a chunk."""
PUBLISHED = "published values, as used throughout the literature; of the training images"
"""The usual source of mean and standard deviation."""


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set of square images with one label each."""

    __pydantic_config__ = ConfigDict(extra="ignore")  # earlier versions recorded how the original was read, too

    name: str
    """The name it is asked for by, also the name of its folder."""
    title: str
    """The name for tables and figures."""
    classes: tuple[str, ...]
    """Class names; a label is a position in it."""
    size: int
    """Height and width, pixels."""
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""
    mean: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]; empty where it is measured when the set is prepared."""
    std: tuple[float, ...]
    """As ``mean``; 1 of a channel that is the same everywhere."""
    stats_source: str
    """Where mean and std come from."""
    origin: str
    """One sentence: where the original comes from."""
    labelled: bool = True
    """Whether training images have labels: without them a student can be distilled on it, and probed on others."""


@dataclass(frozen=True)
class Download:
    """One original file as its publisher offers it."""

    file: str
    url: str
    md5: str
    """Hexadecimal; empty where its publisher states none."""


def downloads(base: str, files: Mapping[str, str]) -> tuple[Download, ...]:
    """The files below the address ``base``, each with its MD5."""
    return tuple(Download(file, base + file, md5) for file, md5 in files.items())


@dataclass(frozen=True)
class Source:
    """An original as it is to be read."""

    path: Path
    scratch: Path
    """A folder for what must be unpacked."""
    stack: ExitStack
    """Closes what stays open while images are read."""
    size: int | None = None
    """Pixels that images are scaled to; None: as they are."""
    split_seed: int = 0
    """Of the split of a folder that has none."""


@dataclass(frozen=True, kw_only=True)
class DataSet(DataInfo):
    """A data set known by name: what is known of it, where its original comes from, and how it is read."""

    read: Callable[[DataSet, Source], Original]
    holds: Callable[[DataSet, Path], bool] | None = None
    """Whether a folder has the original, by the names of its files; None: it comes with an installed library."""
    downloads: tuple[Download, ...] = ()
    """The files that are fetched when, and only when, a download is asked for."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """File name -> MD5 of official files wherever they are found; of idx files, uncompressed."""
    package: str = ""
    """Debian package that installs the original, or empty."""
    package_folder: str = ""
    """Where that package puts it."""
    scalable: bool = False
    """Whether ``read`` scales images to ``Source.size``."""

    @property
    def info(self) -> DataInfo:
        """What is known of the set, alone: what its meta.json has."""
        return DataInfo(**{each.name: getattr(self, each.name) for each in dataclasses.fields(DataInfo)})

    @property
    def advice(self) -> str:
        """What to do about a damaged original."""
        return f"Get it again from {self.downloads[0].url}." if self.downloads else "Get it again."

    def check_md5(self, file: str, actual: str, shown: str) -> None:
        """InputError, naming it as ``shown``, where a file of an official name has another MD5 than the official."""
        expected = self.checksums.get(file)
        if expected and actual != expected:
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
    """An original as read; ``info`` may still lack what only a pass over the pixels tells (mean and std)."""

    info: DataInfo
    train: Split
    test: Split
    notes: dict[str, str] = field(default_factory=dict)
    """What was decided on the way, for the record: splits made, images resized, files left out."""
    measure: bool = False
    """Whether mean and std are to be measured on the training images."""
    noticed: Callable[[], dict[str, str]] = dict
    """Notes that a pass over the images tells; called when both splits were read."""

    def check(self) -> None:
        """InputError where counts or labels are not those that ``info`` announces."""
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
    """A split of images that are in memory already, uint8 [N, H, W, C]."""

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(images), CHUNK):
            yield np.ascontiguousarray(images[start : start + CHUNK])

    return Split(np.asarray(labels, np.int64), chunks)


def unpacked(path: Path, folder: str, files: Iterable[str]) -> Path | None:
    """Which of ``path`` and the ``folder`` in it has all ``files``."""
    return next((each for each in (path, path / folder) if all((each / file).is_file() for file in files)), None)
