"""Small file helpers: errors of reading and writing in the user's words, checksums, atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rt_scale.spec.errors import InputError, RtScaleError, RunError
from rt_scale.spec.stopping import Heed, go_on

_PAUSE = 0.1
"""Seconds between two tries to get a lock that another process holds."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_full(path: Path, reason: str) -> str:
    """The message for a disk without room for ``path``."""
    return f"Disk full: cannot write '{path}', {reason}. Free some space, or choose another place with --data-dir."


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` into RunError (disk full) or InputError (not allowed to)."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError(disk_full(path, error.strerror or "no space left")) from error
        raise InputError(
            f"Cannot write '{path}': {error.strerror or error}. Give a folder that you may write to "
            "(--data-dir, or the environment variable RT_SCALE_DATA)."
        ) from error


@contextlib.contextmanager
def reading(path: Path | str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong while decoding ``path`` into an InputError that names it and gives ``advice``.

    Decoders (tar, gzip, lzma, pickle, PIL) raise nearly every kind of exception on damaged input, so all
    are caught here; errors already meant for the user pass.
    """
    try:
        yield
    except RtScaleError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"Cannot read '{path}': {reason or type(error).__name__}. {advice}") from error


def md5_of(path: Path) -> str:
    """MD5 of a file, hexadecimal: identifies official releases, no protection against an attacker."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON: whole or not at all, on disk when this returns."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fingerprint(source: Path) -> str:
    """Changes when a file of ``source`` is added, removed, resized or written to."""
    with reading(source, "Check that you may read it."):
        if source.is_file():
            status = source.stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        digest = hashlib.sha256()
        for folder, folders, names in os.walk(source, followlinks=True):
            folders.sort()
            for name in sorted(names):
                status = os.stat(os.path.join(folder, name))
                digest.update(f"{folder}/{name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


@contextlib.contextmanager
def lock(name: str, data_dir: Path, wait: bool, heed: Heed = go_on) -> Iterator[None]:
    """Hold the lock of ``name``; freed by the system however this process ends.

    Args:
        name: of the data set.
        data_dir: where it lies.
        wait: whether another process that holds it is waited for, or refused for (InputError).
        heed: called again and again while it is waited for.
    """
    path = data_dir / f".{name}.lock"
    with writing(path):
        data_dir.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115 - closed below
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not wait:
                    raise InputError(
                        f"'{name}' is being prepared in '{data_dir}' by another process. Wait until it is done; then "
                        "the same command returns at once."
                    ) from error
            heed()
            time.sleep(_PAUSE)
        yield
