"""Errors of reading and writing data as messages for users, free disk space, checksums."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rt_scale.spec.errors import InputError, RtScaleError, RunError, printable
from rt_scale.system.files import FULL


def disk_full(path: Path, reason: str) -> str:
    """The message for a disk without room for ``path``."""
    return f"Disk full: cannot write '{path}', {reason}. Free some space, or choose another place with --data-dir."


def check_room(path: Path, needed: int) -> None:
    """InputError if the disk of ``path``, whose folder exists, has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise InputError(disk_full(path, f"{needed:,} bytes are needed, {free:,} are free"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` into a RunError (disk full) or an InputError (any other)."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise RunError(disk_full(path, error.strerror or "no space left")) from error
        raise InputError(
            f"Cannot write '{path}': {error.strerror or error}. Give a folder that you may write to "
            "(--data-dir, or the environment variable RT_SCALE_DATA)."
        ) from error


@contextlib.contextmanager
def reading(path: Path | str, advice: str) -> Iterator[None]:
    """Turn any exception of decoding ``path`` into an InputError that names it and gives ``advice``.

    Decoders (tar, gzip, lzma, pickle, PIL) raise nearly every kind of exception on damaged input. RtScaleErrors pass.
    """
    try:
        yield
    except RtScaleError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = reason.rstrip(".") or type(error).__name__
        raise InputError(f"Cannot read '{printable(str(path))}': {reason}. {advice}") from error


class Stream(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


def blocks(stream: Stream, name: Path | str, advice: str, size: int = 1 << 20) -> Iterator[bytes]:
    """The contents of a stream, ``size`` bytes at a time; errors are those of :func:`reading` ``name``."""
    while True:
        with reading(name, advice):
            block = stream.read(size)
        if not block:
            return
        yield block


def md5_of(path: Path) -> str:
    """The hexadecimal MD5 of a file: it identifies official releases, and does not protect against attackers."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
