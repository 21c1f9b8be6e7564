"""What is known of a data set by name, before and after it is prepared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Download:
    """One original file as its publisher offers it."""

    file: str
    """File name."""
    url: str
    """Where it is fetched from when, and only when, a download is asked for."""
    md5: str
    """MD5 of the file as downloaded, hexadecimal; empty where its publisher states none."""


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set of square images with one label each."""

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
    """Per channel, of training pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]; 1 of a channel that is the same everywhere."""
    stats_source: str
    """Where mean and std come from."""
    origin: str
    """One sentence: where the original comes from."""
    reader: str = "folder"
    """Which reader of ``rt_scale.data.sources`` reads the original, by the name of its module."""
    downloads: tuple[Download, ...] = ()
    """The files that a download fetches; empty where there is nothing to fetch."""
    checksums: tuple[tuple[str, str], ...] = ()
    """(file name, MD5) of official files wherever they are found; of idx files, uncompressed."""
    package: str = ""
    """Debian package that installs the original, or empty."""
    package_folder: str = ""
    """Where that package puts it."""
    labelled: bool = True
    """Whether training images have labels: without them a student can be distilled on it, and probed on others."""

    def to_json(self) -> dict[str, Any]:
        """As plain dicts and lists, for a JSON file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> DataInfo:
        """The inverse of ``to_json`` after a round trip through JSON; TypeError on foreign keys."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        values["downloads"] = tuple(Download(**each) for each in values.get("downloads", ()))
        values["checksums"] = tuple((str(file), str(md5)) for file, md5 in values.get("checksums", ()))
        return DataInfo(**values)


PUBLISHED = "published values, as used throughout the literature; of the training images"
"""The usual source of mean and standard deviation."""


def downloads(base: str, files: Mapping[str, str]) -> tuple[Download, ...]:
    """The files below the address ``base``, each with its MD5."""
    return tuple(Download(file, base + file, md5) for file, md5 in files.items())
