"""Checkpoints of a run: whole folders with checksums, and the newest one that is sound."""

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

from rt_scale.spec.errors import RunError
from rt_scale.store.atomic import (
    disk_errors,
    free_bytes,
    full_disk,
    names_in,
    read_json,
    write_json,
)
from rt_scale.system.files import remove, sync_folder, temporary_name

MANIFEST = "manifest.json"
DAMAGED = "damaged-"
_NO_ROOM = 1_000_000
"""Free bytes below which a library's failure to write is put down to the disk."""

T = TypeVar("T")

UNREADABLE = (ValueError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError)
"""What says of a file, whose checksum is right, that it is damaged.

RuntimeError is not among them: a loader that raises it (out of memory, a model of other shapes) says nothing against
what it read.
"""


class FileSum(TypedDict):
    """What a manifest says of a file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class _Damaged(Exception):
    """A checkpoint is not what was written; says how."""


class Checkpoints:
    """The folder ``checkpoints`` of a run: ``<step>/`` each, written and removed in one piece."""

    def __init__(self, folder: Path, fetch: Callable[[int], None] = lambda step: None) -> None:
        """The checkpoints in ``folder``.

        Args:
            folder: it need not exist.
            fetch: called with a step before its checkpoint is read; brings here what is kept elsewhere.
        """
        self.folder = folder
        self._fetch = fetch

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending; whether sound is not looked at."""
        return sorted(int(name) for name in names_in(self.folder) if name.isdigit())

    def save(self, step: int, writer: Callable[[Path], None], check: Callable[[], object]) -> None:
        """Write the checkpoint of ``step``; a checkpoint of that step that is there is replaced.

        Args:
            step: optimiser steps done, >= 0.
            writer: called with an empty folder, writes the checkpoint's files into it.
            check: called right before the checkpoint takes its name; raises where it must not.

        Raises:
            RunError: where the disk is full; InputError: where the folder cannot be written.
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
            with disk_errors(target):
                _retire(target)
                os.rename(temporary, target)
                sync_folder(self.folder)
        except BaseException:
            remove(temporary)
            raise

    def latest(self, loader: Callable[[Path], T], warn: Callable[[str], None]) -> tuple[int, T] | None:
        """The newest sound checkpoint as (step, what ``loader`` makes of it); None where no sound one is left.

        A damaged one (a file missing, of another size or checksum, or unreadable for ``loader``) is moved to
        ``damaged-<step>``, and the one before it is tried.

        Args:
            loader: reads a checkpoint's folder. :data:`UNREADABLE` counts as damage; any other exception is passed on.
            warn: receives a sentence that names each damaged checkpoint and where it is now.
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
        """What ``loader`` makes of the checkpoint of ``step``, which stays where it is.

        Raises:
            RunError: where it is missing or damaged.
        """
        try:
            return self._load(step, loader)
        except _Damaged as damage:
            raise RunError(f"its checkpoint '{self.folder / str(step)}' cannot be used: {damage}.") from damage

    def _load(self, step: int, loader: Callable[[Path], T]) -> T:
        path = self.folder / str(step)
        self._fetch(step)
        if problem := problem_of(path) if path.is_dir() else "it is not there":
            raise _Damaged(problem)
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
                with disk_errors(self.folder / str(step)):
                    _retire(self.folder / str(step))


@contextlib.contextmanager
def _full_disk_of_libraries(path: Path) -> Iterator[None]:
    """torch and safetensors report a full disk as errors of their own, not as OSError."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if free_bytes(path) < _NO_ROOM or "No space left" in str(error):
            raise full_disk(path) from error
        raise


def _retire(path: Path) -> None:
    """Remove a checkpoint: it loses its name before its files, so a kill leaves no half of it."""
    if path.exists():
        grave = temporary_name(path)
        os.rename(path, grave)
        remove(grave)


def _describe(path: Path) -> FileSum:
    """What is to be said of a file, which is on the disk when this returns."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def is_sound(path: Path, expected: FileSum) -> bool:
    """Whether the file is there as its manifest describes it."""
    return path.is_file() and path.stat().st_size == expected["size"] and _describe(path) == expected


def problem_of(path: Path) -> str | None:
    """What is wrong with the checkpoint in ``path``; None where its files are those that were written."""
    try:
        manifest: dict[str, FileSum] = read_json(path / MANIFEST)["files"]
        for name, expected in manifest.items():
            if not (path / name).is_file():
                return f"{name} is missing"
            if (path / name).stat().st_size != expected["size"]:
                return f"{name} has {(path / name).stat().st_size} bytes instead of {expected['size']}"
            if _describe(path / name)["sha256"] != expected["sha256"]:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (RunError, OSError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} or a file in it cannot be read: {error}"
    return None
