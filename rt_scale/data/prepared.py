"""A prepared data set on disk: ``<data_dir>/<name>/{train.beton, test.beton, meta.json}``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rt_scale import __version__
from rt_scale.data.beton import Beton, open_beton, verify
from rt_scale.data.catalogue import DataInfo
from rt_scale.data.places import check_name, prepare_command
from rt_scale.spec.errors import InputError, printable

FORMAT = 1
META = "meta.json"
TRAIN = "train.beton"
TEST = "test.beton"


@dataclass(frozen=True)
class Request:
    """What was asked for when a set was prepared; asking for the same again does nothing."""

    source: str | None
    """The original, absolute; None where it was found or is bundled."""
    fingerprint: str
    """Sizes and times of the source's files."""
    size: int | None
    """Pixels that a folder's images were resized to."""
    split_seed: int
    """Of the split of a folder without train/ and test/."""


@dataclass(frozen=True)
class Meta:
    """The contents of ``meta.json``."""

    info: DataInfo
    request: Request
    sha256: dict[str, str]
    """SHA-256 of each file, by file name."""
    notes: dict[str, str]
    """What was decided while reading the original."""
    version: str
    """Of rt-scale."""
    format: int = field(default=FORMAT)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``meta.json``."""
        return {**asdict(self), "info": self.info.to_json()}


@dataclass(frozen=True)
class Prepared:
    """An open prepared data set."""

    info: DataInfo
    train: Beton
    test: Beton
    sha256: str
    """Of both files' contents, as recorded when they were written (``verify_prepared`` reads them again), and of
    mean and std."""
    folder: Path
    notes: dict[str, str]
    """What was decided while reading the original: the split, resizing, files left out."""
    request: Request


def load(name: str, data_dir: Path) -> Prepared | None:
    """Open what is prepared under ``name``; None where nothing is, InputError where it is damaged."""
    folder = data_dir / name
    if not (folder / META).is_file():
        return None
    meta = _read_meta(folder / META, name, data_dir)
    train, test = open_beton(folder / TRAIN), open_beton(folder / TEST)
    info = meta.info
    shape = (info.size, info.size, info.channels)
    for beton, expected in ((train, info.train), (test, info.test)):
        if beton.samples != expected or beton.image_shape != shape or beton.labels.max() >= len(info.classes):
            raise _damaged(beton.path, "it does not fit its meta.json", name, data_dir)
    return Prepared(info, train, test, _combined(meta), folder, meta.notes, meta.request)


def load_verified(name: str, data_dir: Path) -> Prepared | None:
    """Like ``load``, and read both files through: InputError where contents changed since."""
    prepared = load(name, data_dir)
    if prepared is None:
        return None
    recorded = _read_meta(prepared.folder / META, name, data_dir).sha256
    for file in (TRAIN, TEST):
        if (actual := verify(prepared.folder / file)) != recorded[file]:
            reason = f"its contents have SHA-256 {actual}, written was {recorded[file]}"
            raise _damaged(prepared.folder / file, reason, name, data_dir)
    return prepared


def contents_sha256(name: str, data_dir: Path) -> str | None:
    """``Prepared.sha256`` of the set ``name``, by its record; None where none is there, or it is damaged."""
    try:
        return _combined(parse_meta((data_dir / check_name(name) / META).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _combined(meta: Meta) -> str:
    """Of everything that a run's numbers take from the set: both files, and the statistics it is normalised by."""
    parts = [meta.sha256[TRAIN], meta.sha256[TEST], *map(repr, (*meta.info.mean, *meta.info.std))]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def parse_meta(text: str) -> Meta:
    """The contents of a ``meta.json``; ValueError, saying why, for any that this version cannot use."""
    try:
        fields = json.loads(text)
        written, version = fields["format"], fields["version"]
        if written != FORMAT:
            raise ValueError(
                f"its format {written} is not {FORMAT}: rt-scale {version} wrote it, this is {__version__}"
            )
        info = DataInfo.from_json(fields.pop("info"))
        meta = Meta(info=info, request=Request(**fields.pop("request")), **fields)
        complete = {TRAIN, TEST} <= meta.sha256.keys()
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is not a description that we wrote ({error})") from error
    if not complete:
        raise ValueError("checksums are missing in it")
    return meta


def _read_meta(path: Path, name: str, data_dir: Path) -> Meta:
    try:
        return parse_meta(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error), name, data_dir) from error


def _damaged(path: Path, reason: str, name: str, data_dir: Path) -> InputError:
    return InputError(
        f"The prepared data set '{name}' is damaged or of another version: '{path}', {reason}. Delete the folder "
        f"'{data_dir / name}' and make it again with '{prepare_command(name, data_dir)}'."
    )


def another(prepared: Prepared, asked: Request, command: str) -> InputError:
    """The refusal of ``asked``, which is not how ``prepared`` was made: says what differs, and what to do.

    Args:
        prepared: what there is.
        asked: how it should have been made.
        command: what is typed to make it anew; empty where that is what was typed already.
    """
    name, before = prepared.info.name, prepared.request
    found = "where the original was found"
    differs = []
    if asked.source != before.source:
        differs.append(f"it is from {_quoted(before.source) or found}, not from {_quoted(asked.source) or found}")
    elif asked.fingerprint != before.fingerprint:
        differs.append(f"files of {_quoted(asked.source) or 'the original'} have changed since")
    if asked.size != before.size:
        differs.append(f"its images are of {_size_text(before.size)}, not of {_size_text(asked.size)}")
    if asked.split_seed != before.split_seed:
        differs.append(f"its split is by seed {before.split_seed}, not {asked.split_seed}")
    again = f"'{command}'" if command else "this command"
    return InputError(
        f"'{name}' is prepared already in '{prepared.folder}', and otherwise: {'; '.join(differs)}. Choose another "
        f"name, or add --replace to {again} to make it anew in its place; runs on it would then see other images."
    )


def _quoted(source: str | None) -> str:
    return (source and f"'{printable(source)}'") or ""


def _size_text(size: int | None) -> str:
    return "their own size" if size is None else f"{size} x {size} pixels"
