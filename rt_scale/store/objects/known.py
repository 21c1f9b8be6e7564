"""Which versions of an object store's objects the files of a folder in the mirror are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from rt_scale.spec.errors import RunError
from rt_scale.store.atomic import read_json
from rt_scale.system.files import remove, temporary_name

_NEVER = (-1, -1)
"""The stamp of no file."""


class Known:
    """Name of a file -> its object's tag, and the file's size and date when it was equal to the object.

    A change of the file, or of the object, is found without reading either.
    """

    def __init__(self, record: Path, folder: Path) -> None:
        """Of the files in ``folder``, kept in the file ``record``; empty until :meth:`read`."""
        self._record, self._folder = record, folder
        self._files: dict[str, tuple[str, int, int]] = {}
        self._written: dict[str, tuple[str, int, int]] = {}

    @staticmethod
    def stamp(path: Path) -> tuple[int, int]:
        """Size and date of a file."""
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def read(self) -> None:
        """Take the record; a missing or damaged one says nothing."""
        try:
            self._files = {name: (tag, size, date) for name, (tag, size, date) in read_json(self._record).items()}
        except (FileNotFoundError, RunError, ValueError, TypeError, AttributeError):
            self._files = {}
        self._written = dict(self._files)

    def write(self) -> None:
        """Record what is known."""
        if self._files != self._written:
            temporary = temporary_name(self._record)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._files))
            os.replace(temporary, self._record)
            self._written = dict(self._files)

    def names(self) -> set[str]:
        """The files of which an object is known."""
        return set(self._files)

    def differs(self, name: str, tag: str | None = None) -> bool:
        """Whether the file is not the object that is known, or that with the given ``tag``."""
        known = self._files.get(name)
        if known is None or (tag is not None and tag != known[0]):
            return True
        try:
            return self.stamp(self._folder / name) != known[1:]
        except FileNotFoundError:
            return True

    def put(self, name: str, tag: str, stamp: tuple[int, int] = _NEVER) -> None:
        """An object has that tag; the file of that ``stamp`` is equal to it."""
        self._files[name] = (tag, *stamp)

    def equal(self, name: str) -> None:
        """The file, as it is now, is equal to its object, if one is known."""
        if name in self._files:
            self._files[name] = (self._files[name][0], *self.stamp(self._folder / name))

    def drop(self, names: Iterable[str]) -> None:
        """These have no object any more."""
        for name in names:
            self._files.pop(name, None)

    def keep(self, names: Iterable[str]) -> None:
        """No other than these has an object."""
        self.drop(self._files.keys() - set(names))

    def forget(self) -> None:
        """Nothing is known."""
        self._files, self._written = {}, {}
        remove(self._record)
