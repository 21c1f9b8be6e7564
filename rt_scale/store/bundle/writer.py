"""The members of a bundle as they are written, see ``bundle_format``."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from rt_scale.spec.errors import RunError
from rt_scale.store.bundle.format import WEIGHTS, File, is_member

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every member, the earliest that a zip file knows."""
_LARGE = 1 << 30
"""Bytes from which a member is written with 64-bit sizes."""
CHUNK = 1 << 20

Source = Path | bytes


@dataclass
class Writer:
    """Adds members and remembers what they are.

    Attributes:
        archive: the zip file.
        files: what was added, by name.
        notes: what could not be.
    """

    archive: ZipFile
    files: dict[str, File] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_all(self, members: Mapping[str, Source]) -> None:
        """Add members, by name; what has gone meanwhile is noted."""
        for name in sorted(members):
            if not is_member(name):
                self.notes.append(f"{name} is left out: it has no name that a bundle takes.")
                continue
            try:
                with _open(members[name]) as source:
                    self.files[name] = self.add(name, source)
            except FileNotFoundError:
                self.notes.append(f"{name} is left out: it was removed while the bundle was made.")

    def add(self, name: str, source: BinaryIO) -> File:
        """Add one member, piece by piece."""
        info = ZipInfo(name, _EPOCH)
        info.create_system, info.external_attr = 3, 0o100644 << 16
        info.compress_type = ZIP_STORED if name.endswith(WEIGHTS) else ZIP_DEFLATED
        size, digest = 0, hashlib.sha256()
        large = source.seek(0, os.SEEK_END) >= _LARGE
        source.seek(0)
        with self.archive.open(info, "w", force_zip64=large) as out:
            while chunk := _read(source, name):
                size += len(chunk)
                digest.update(chunk)
                out.write(chunk)
        return File(size=size, sha256=digest.hexdigest())


def _open(source: Source) -> BinaryIO:
    """What a member is made of; FileNotFoundError where it has gone."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return open(source, "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(str(source), error) from error


def _read(source: BinaryIO, name: str) -> bytes:
    try:
        return source.read(CHUNK)
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> RunError:
    return RunError(f"'{name}' cannot be read: {error.strerror}. Check that disk, then pack again.")
