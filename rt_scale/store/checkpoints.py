"""Checkpoints of a run: folders with checksums, written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypedDict, TypeVar

from safetensors import SafetensorError

from rt_scale.spec.errors import RunError, some
from rt_scale.store.atomic import (
    disk_errors,
    free_bytes,
    full_disk,
    names_in,
    read_json,
    remove_whole,
    write_json,
)
from rt_scale.system.files import remove, sync_folder, temporary_name

MANIFEST = "manifest.json"
DAMAGED = "damaged-"
_NO_ROOM = 1_000_000
"""Below this many free bytes, a library's failed write counts as a full disk."""

T = TypeVar("T")

UNREADABLE = (ValueError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError)
"""Errors of a loader that mean a damaged file, even if its checksum is right.

RuntimeError is not among them: a loader also raises it when out of memory or for a model of other shapes.
"""


class FileSum(TypedDict):
    """A file's size in bytes and its SHA-256."""

    size: int
    sha256: str


class _Damaged(Exception):
    """A checkpoint differs from what was written; the message says how."""


class Checkpoints:
    """The folder ``checkpoints`` of a run; each ``<step>/`` in it is written and removed atomically."""

    def __init__(self, folder: Path, fetch: Callable[[int], None] = lambda step: None) -> None:
        """The checkpoints in ``folder``, which need not exist; ``fetch`` downloads a step before it is read."""
        self.folder = folder
        self._fetch = fetch

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, sound or not, ascending."""
        return sorted(int(name) for name in names_in(self.folder) if name.isdigit())

    def save(self, step: int, writer: Callable[[Path], None], check: Callable[[], object]) -> None:
        """Write, or replace, the checkpoint of ``step``.

        Args:
            step: optimiser steps done, >= 0.
            writer: writes the checkpoint's files into the empty folder that it is given.
            check: called right before the checkpoint gets its name; raises to prevent that.

        Raises:
            RunError: the disk is full.
            InputError: the folder cannot be written.
        """
        target = self.folder / str(step)
        temporary = temporary_name(target)
        try:
            with disk_errors(target), _full_disk_of_libraries(target):
                temporary.mkdir(parents=True)
                writer(temporary)
                found = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
                files = {name: _describe(temporary / name) for name in found}
            write_json(temporary / MANIFEST, {"step": step, "files": files})
            check()
            remove_whole(target)
            with disk_errors(target):
                os.rename(temporary, target)
                sync_folder(self.folder)
        except BaseException:
            remove(temporary)
            raise

    def latest(self, loader: Callable[[Path], T], warn: Callable[[str], None]) -> tuple[int, T] | None:
        """The newest sound checkpoint as (step, ``loader(folder)``); None if there is none.

        Moves a damaged one to ``damaged-<step>`` and tries the one before it.

        Args:
            loader: reads a checkpoint's folder; an error in :data:`UNREADABLE` counts as damage.
            warn: receives a sentence about each damaged checkpoint.
        """
        for step in reversed(self.steps()):
            try:
                return step, self._load(step, loader)
            except _Damaged as damage:
                path, aside = self.folder / str(step), self._quarantine(step)
                left = self.steps()
                then = f"Trying the one before, step {left[-1]}." if left else "There is none before; starting anew."
                warn(f"Checkpoint '{path}' is damaged ({damage}); moved to '{aside.name}'. {then}")
        return None

    def read(self, step: int, loader: Callable[[Path], T]) -> T:
        """``loader(folder)`` of the checkpoint of ``step``; RunError if it is missing or damaged."""
        try:
            return self._load(step, loader)
        except _Damaged as damage:
            raise RunError(f"its checkpoint '{self.folder / str(step)}' cannot be used: {damage}.") from damage

    def _load(self, step: int, loader: Callable[[Path], T]) -> T:
        path = self.folder / str(step)
        self._fetch(step)
        try:
            files: dict[str, FileSum] = read_json(path / MANIFEST)["files"]
            odd = [name for name, expected in files.items() if not is_sound(path / name, expected)]
        except FileNotFoundError:
            raise _Damaged(f"{MANIFEST} is missing") from None
        except (RunError, OSError, TypeError, KeyError, AttributeError) as error:
            raise _Damaged(f"{MANIFEST} or a file in it cannot be read: {error}") from error
        if odd:
            raise _Damaged(f"{some(odd)} is missing, or not as it was written (size or checksum)")
        try:
            return loader(path)
        except UNREADABLE as error:
            raise _Damaged(f"it cannot be read: {type(error).__name__}: {error}") from error

    def _quarantine(self, step: int) -> Path:
        names = itertools.chain([f"{DAMAGED}{step}"], (f"{DAMAGED}{step}-{number}" for number in itertools.count(2)))
        aside = next(path for path in map(self.folder.joinpath, names) if not path.exists())
        with disk_errors(aside):
            os.rename(self.folder / str(step), aside)
        return aside

    def prune(self, keep: Iterable[int]) -> None:
        """Remove every checkpoint whose step is not in ``keep``."""
        kept = set(keep)
        for step in self.steps():
            if step not in kept:
                remove_whole(self.folder / str(step))


@contextlib.contextmanager
def _full_disk_of_libraries(path: Path) -> Iterator[None]:
    """Recognise a full disk: torch and safetensors do not report it as OSError."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if free_bytes(path) < _NO_ROOM or "No space left" in str(error):
            raise full_disk(path) from error
        raise


def _describe(path: Path) -> FileSum:
    """A file's size and checksum; the file is synced to disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def is_sound(path: Path, expected: FileSum) -> bool:
    """Whether the file exists with the size and checksum in its manifest."""
    return path.is_file() and path.stat().st_size == expected["size"] and _describe(path) == expected
