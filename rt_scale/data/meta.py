"""The folder of prepared data, and ``meta.json``, which says what a prepared set is: read without numpy."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rt_scale import __version__
from rt_scale.spec.errors import InputError, shown, some
from rt_scale.system.paths import cache_folder, path_from, user_path

META, TRAIN, TEST = "meta.json", "train.beton", "test.beton"
ORIGINALS = "originals"
"""Folder of originals below the data folder, for downloads too."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def default_data_dir(given: Path | None = None) -> Path:
    """The folder of prepared data: ``given`` (--data-dir), else RT_SCALE_DATA, else the user cache."""
    if given is not None:
        return user_path(str(given), "--data-dir")
    return path_from("RT_SCALE_DATA") or cache_folder("rt-scale", "--data-dir or RT_SCALE_DATA", may_hold=True)


def check_name(name: str) -> str:
    """``name`` if it is a valid name of a data set; InputError otherwise."""
    if not _NAME.fullmatch(name) or name == ORIGINALS:
        raise InputError(
            f"{shown(name)} cannot name a data set: a name has letters, digits, '-' and '_', begins with a letter "
            f"or digit, has at most 64 characters and is not '{ORIGINALS}'."
        )
    return name


@dataclass(frozen=True)
class DataInfo:
    """The description of a data set of square images with one label each."""

    __pydantic_config__ = ConfigDict(extra="ignore")  # earlier versions recorded how the original was read, too

    name: str
    title: str
    """The name in tables and figures."""
    classes: tuple[str, ...]
    """Class names; a label is a position in it."""
    size: int
    """Height and width in pixels."""
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    train: int
    test: int
    mean: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]; empty: measured when the set is prepared."""
    std: tuple[float, ...]
    """As ``mean``; 1 for a constant channel."""
    stats_source: str
    origin: str
    """The source of the original, one sentence."""
    labelled: bool = True
    """Whether training images have labels; without them a student can be distilled on the set but not probed on it."""


@dataclass(frozen=True)
class Request:
    """The request that a set was prepared for."""

    source: str | None
    """Absolute path of the original that the user gave; None: it was found, or is bundled."""
    fingerprint: str
    size: int | None
    """Pixels that images were resized to."""
    split_seed: int
    """Seed of the split of a folder without train/ and test/."""


@dataclass(frozen=True)
class Meta:
    """The contents of ``meta.json``."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    info: DataInfo
    request: Request
    sha256: dict[str, str]
    notes: dict[str, str]
    """Decisions made while reading the original: the split, resizing, files left out."""
    version: str
    format: Literal[1] = 1

    @property
    def digest(self) -> str:
        """SHA-256 of what decides a run's numbers: both files, mean and std."""
        parts = [self.sha256[TRAIN], self.sha256[TEST], *map(repr, (*self.info.mean, *self.info.std))]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def contents_sha256(name: str, data_dir: Path) -> str | None:
    """The recorded ``Prepared.sha256`` of the set ``name``; None if it is not prepared, or damaged."""
    try:
        return parse_meta((data_dir / check_name(name) / META).read_text(encoding="utf-8")).digest
    except (OSError, ValueError):
        return None


def parse_meta(text: str) -> Meta:
    """The contents of a ``meta.json``; ValueError, with the reason, if this version cannot use it."""
    try:
        meta = TypeAdapter(Meta).validate_json(text)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ValueError(f"rt-scale {__version__} cannot use it ({some(found)})") from error
    if not {TRAIN, TEST} <= meta.sha256.keys():
        raise ValueError("checksums are missing in it")
    return meta
