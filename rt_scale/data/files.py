"""Small file helpers: errors of reading and writing in the user's words, checksums, atomic writes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rt_scale.spec.errors import InputError, RtScaleError, RunError, printable
from rt_scale.spec.stopping import Heed, go_on
from rt_scale.system.files import FULL

_PAUSE = 0.1
"""Seconds between two tries to get a lock that another process holds."""


def disk_full(path: Path, reason: str) -> str:
    """The message for a disk without room for ``path``."""
    return f"Disk full: cannot write '{path}', {reason}. Free some space, or choose another place with --data-dir."


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing ``path`` into RunError (disk full) or InputError (not allowed to)."""
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
        reason = reason.rstrip(".") or type(error).__name__
        raise InputError(f"Cannot read '{printable(str(path))}': {reason}. {advice}") from error


def md5_of(path: Path) -> str:
    """MD5 of a file, hexadecimal: identifies official releases, no protection against an attacker."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@dataclass(frozen=True)
class Level:
    """What lies in one folder."""

    folder: str
    files: list[str]
    """Names of files and of links to files, sorted."""
    odd: dict[str, str]
    """Names of what is neither a file nor a folder, and why."""


def walk(root: Path, skip: Callable[[str], bool], onerror: Callable[[OSError], None]) -> Iterator[Level]:
    """Every folder of ``root``, from the top and sorted, links followed; unlike os.walk it ends where links go around.

    Args:
        root: a folder.
        skip: names of files and folders that are not looked at.
        onerror: called where a folder cannot be listed; it is left out where that returns.
    """
    waiting = [(str(root), frozenset([_identity(os.stat(root))]))]
    while waiting:
        folder, above = waiting.pop()
        level, inside = Level(folder, [], {}), []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            onerror(error)
            continue
        for entry in entries:
            if skip(entry.name):
                continue
            if (folder_or_why := _look(entry, above)) is None:
                level.files.append(entry.name)
            elif isinstance(folder_or_why, str):
                level.odd[entry.name] = folder_or_why
            else:
                inside.append((entry.path, above | {folder_or_why}))
        yield level
        waiting += reversed(inside)


def _look(entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> tuple[int, int] | str | None:
    """The identity of a folder, why an entry is of no use, or None for a file."""
    try:
        if entry.is_file():
            return None
        status = entry.stat()
    except OSError as error:
        return f"{_target(entry)}: {error.strerror}"
    if not entry.is_dir():
        return "neither a file nor a folder"
    identity = _identity(status)
    return f"{_target(entry)}, a folder that it lies in" if identity in above else identity


def _target(entry: os.DirEntry[str]) -> str:
    return f"a link to '{printable(os.readlink(entry.path))}'" if entry.is_symlink() else "it cannot be looked at"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def fingerprint(source: Path) -> str:
    """Changes when a file of ``source`` is added, removed, resized or written to."""
    with reading(source, "Check that you may read it."):
        if source.is_file():
            status = source.stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        digest = hashlib.sha256()
        for level in walk(source, skip=lambda _: False, onerror=lambda _: None):
            for name in sorted([*level.files, *level.odd]):
                path = f"{level.folder}/{name}"
                status = os.lstat(path) if name in level.odd else os.stat(path)
                digest.update(os.fsencode(f"{path}:{status.st_size}:{status.st_mtime_ns}\n"))
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
