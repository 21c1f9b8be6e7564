"""A run of an object store as this machine's mirror shows it.

All work is done in the mirror's folder, as in a store that is a folder. Its holder sends what changed (``remote_run``);
others bring the small files here and look at them; a checkpoint's files come when they are asked for. Beside the runs,
the mirror holds two marks a run in ``.mirror``: a lock, shared by those who look and exclusive to the holder, so that
nobody replaces what the holder is writing, and ``.held``, which names the attempt that worked in this folder and has
not sent everything. Where that is still the newest one, the folder is ahead of the store and is kept; else the store is
right.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rt_scale.store.atomic import to_json, write_bytes
from rt_scale.store.checkpoints import MANIFEST, is_sound
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import Attempt, file_system_time
from rt_scale.store.objects.bucket import Bucket, Entry, changed_entries
from rt_scale.store.objects.claims import Claim, as_attempt, winners
from rt_scale.store.objects.lease import STALE
from rt_scale.system.files import TEMPORARY, remove, temporary_name

MARKS, RUNS, CHECKPOINTS = ".mirror", "runs", "checkpoints"
_CURVES = ("metrics.parquet", "events.")
_YOUNG = 60.0
"""Seconds for which an object may be written again within the second of its date."""


class RunMirror:
    """A run in an object store, and its folder in the mirror.

    Attributes:
        folder: in the mirror.
    """

    def __init__(self, bucket: Bucket, name: str, root: Path) -> None:
        """The run ``name``.

        Args:
            bucket: the store's objects.
            name: of the run.
            root: the mirror's folder.
        """
        self._bucket, self._prefix = bucket, f"{RUNS}/{name}"
        self.folder = root / RUNS / name
        self._lock_file, self._held = root / MARKS / f"{name}.lock", root / MARKS / f"{name}.held"

    def refresh(self, curves: bool = True) -> None:
        """Bring the run's small files and the state of its lease here; raises as ``Bucket.get``.

        Args:
            curves: whether metrics and event files are wanted, too.
        """
        self.show(self._entries(), self._bucket.now, curves)

    def _entries(self) -> dict[str, Entry]:
        start = len(self._prefix) + 1
        return {key[start:]: entry for key, entry in self._bucket.entries(self._prefix).items()}

    def show(self, entries: Mapping[str, Entry], now: Callable[[], float], curves: bool) -> None:
        """As :meth:`refresh`, of objects that were listed already.

        Args:
            entries: the run's objects by relative key.
            now: tells the time by the server's clock.
            curves: as of :meth:`refresh`.
        """
        if not entries and not self.folder.exists():
            return
        with self._looking() as free:
            if not free:  # its holder works in this very folder
                return
            if not entries:
                remove(self.folder)
                return
            claims = winners(entries)
            newest = list(claims.values())[-1] if claims else None
            self._show_attempts(newest, now)
            if not self._is_ahead(newest):
                self._bring(entries, now, curves)

    def _is_ahead(self, newest: Claim | None) -> bool:
        try:
            return newest is not None and self._held.read_text() == newest.token
        except FileNotFoundError:
            return False

    def _show_attempts(self, newest: Claim | None, now: Callable[[], float]) -> None:
        """Make the folder's ``lease`` what it would be in a store that is a folder."""
        count = newest.number if newest else 0
        there = {name for name in names(self.folder / LEASES) if name.endswith(".json")}
        for name in there - {f"{number}.json" for number in range(1, count + 1)}:
            remove(self.folder / LEASES / name)
        for number in range(1, count + 1):
            path = self.folder / LEASES / f"{number}.json"
            if number == count and newest is not None and not newest.ended:
                self._show_live(as_attempt(self._bucket, self._prefix, newest, now()))
            elif path.name not in there or path.stat().st_mtime:
                _write_dated(path, b"", 0.0)

    def _show_live(self, attempt: Attempt) -> None:
        data = to_json(asdict(attempt.owner)) if attempt.owner else b""
        # As old as it is; of one that is dated in the future nobody knows that before it was silent for long enough.
        known = not attempt.is_ahead or attempt.still >= STALE
        age = attempt.silent if known else attempt.age
        path = self.folder / LEASES / f"{attempt.number}.json"
        _write_dated(path, data, file_system_time(path.parent) - age)

    def _bring(self, entries: Mapping[str, Entry], now: Callable[[], float], curves: bool) -> None:
        """Make the folder's small files those of the store."""
        now = functools.cache(now)
        manifests = {key: entry for key, entry in entries.items() if is_manifest(key)}
        for step in names(self.folder / CHECKPOINTS):
            if step.isdigit() and f"{CHECKPOINTS}/{step}/{MANIFEST}" not in manifests:
                remove(self.folder / CHECKPOINTS / step)
        small = {key: entry for key, entry in entries.items() if "/" not in key}
        for name in names(self.folder):
            if name not in small and not name.startswith(TEMPORARY) and not (self.folder / name).is_dir():
                remove(self.folder / name)
        wanted = {key: entry for key, entry in small.items() if curves or not key.startswith(_CURVES)}
        for key, entry in changed_entries(wanted, self.folder):
            self._bucket.get_file(self._key(key), self.folder / key, date(entry, now()))
        for key, entry in changed_entries(manifests, self.folder):
            self._bring_manifest(self.folder / key, date(entry, now()))

    def _bring_manifest(self, path: Path, dated: float) -> None:
        data = self._bucket.get(self._key(str(path.relative_to(self.folder))))
        if data is None:
            return
        if not path.is_file() or path.read_bytes() != data:
            remove(path.parent)  # the files of another checkpoint
        _write_dated(path, data, dated)

    def fetch(self, step: int) -> None:
        """Make the checkpoint of ``step`` whole here, as far as the store has it; raises as ``Bucket.get``."""
        key = f"{CHECKPOINTS}/{step}"
        data = self._bucket.get(self._key(f"{key}/{MANIFEST}"))
        if data is None:
            return
        path = self.folder / key
        if not (path / MANIFEST).is_file() or (path / MANIFEST).read_bytes() != data:
            write_bytes(path / MANIFEST, data)
        try:
            files: dict[str, dict[str, Any]] = json.loads(data)["files"]
        except (ValueError, TypeError, KeyError):  # damaged, as whoever reads it will say
            return
        # A manifest of somebody else's making must not name files elsewhere on this machine.
        inside = {name: file for name, file in files.items() if ".." not in Path(name).parts and name[:1] != "/"}
        missing = [name for name, expected in inside.items() if not is_sound(path / name, expected)]
        self._bucket.each(lambda name: self._bucket.get_file(self._key(f"{key}/{name}"), path / name), missing)

    @contextlib.contextmanager
    def _looking(self) -> Iterator[bool]:
        """Whether nobody holds the run in this folder; nobody does while the body runs."""
        handle = self._open_lock()
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    def _open_lock(self) -> int:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _manifest(self, step: str) -> bytes | None:
        try:
            return (self.folder / CHECKPOINTS / step / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def is_manifest(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == CHECKPOINTS and parts[1].isdigit() and parts[2] == MANIFEST


def names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def date(entry: Entry, now: float) -> float:
    """The date that its file gets here: a young object may change without changing its date, so it is asked again.

    Args:
        entry: the object.
        now: by the server's clock.
    """
    return entry.changed - (1.0 if now - entry.changed < _YOUNG else 0.0)


def _write_dated(path: Path, data: bytes, changed: float) -> None:
    """Write a file that is dated ``changed`` from its first moment on."""
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.utime(temporary, (changed, changed))
    os.replace(temporary, path)
