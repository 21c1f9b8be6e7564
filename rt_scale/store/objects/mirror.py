"""A run of an object store, and this machine's mirror of it.

The owner works in the mirror's folder and uploads changes after each durable write: a checkpoint's files before its
manifest, without which the checkpoint does not exist, and the result last. Other processes download the small files,
and a checkpoint's files on demand.

For each run, ``.mirror`` holds a lock, shared by readers and exclusive to the owner, so that no download replaces what
the owner writes, and ``.held``, which names the attempt that has worked in this folder and not uploaded everything. If
that is the newest attempt, the folder is unsynced and is kept; else the store's contents replace it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from rt_scale.spec.errors import InputError, RtScaleError
from rt_scale.store.atomic import names_in, to_json, write_bytes, write_json
from rt_scale.store.checkpoints import MANIFEST, is_sound
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import Attempt, attempt_file, file_system_time
from rt_scale.store.objects.bucket import Bucket, Entry, changed_entries
from rt_scale.store.objects.lease import TIMES, Claim, ObjectLease, as_attempt, newest_claim
from rt_scale.store.run_dir import ARTIFACTS, CHECKPOINTS, EVENTS, METRICS, RESULT, RUNS, RunDir
from rt_scale.system.files import TEMPORARY, remove, temporary_name

MARKS = ".mirror"
_YOUNG = 60.0
"""Objects written less than this many seconds ago count as possibly changed, even if their date is the same."""
_WAIT = 30.0
"""Seconds that an owner waits for readers."""


class ObjectRun(RunDir):
    """A run of an object store; requests raise InputError if the store refuses, StoreUnavailable if it is silent."""

    stale = TIMES.stale

    def __init__(self, bucket: Bucket, name: str, root: Path) -> None:
        """The run ``name`` of ``bucket``, mirrored below the folder ``root``."""
        self._bucket, self._prefix = bucket, f"{RUNS}/{name}"
        super().__init__(root / RUNS / name)
        self._lock_file, self._held = root / MARKS / f"{name}.lock", root / MARKS / f"{name}.held"
        self._lease: ObjectLease | None = None
        self._lock: int | None = None
        self._sent: dict[str, tuple[int, int]] = {}
        self._manifests: dict[str, bytes | None] = {}

    def refresh(self, curves: bool = True) -> None:
        """Download the run's small files and the state of its lease; metrics and event files if ``curves``."""
        self.show(self._entries(), self._bucket.now, curves)

    def show(self, entries: Mapping[str, Entry], now: Callable[[], float], curves: bool) -> None:
        """As :meth:`refresh`, of objects (relative key -> entry) listed before; ``now``: the server's clock."""
        if not entries and not self.path.exists():
            return
        with self._looking() as free:
            if not free:  # the owner works in this folder
                return
            if not entries:
                remove(self.path)
                return
            newest = newest_claim(entries)
            live = newest is not None and not newest.ended
            self._show_attempts(newest.number if newest else 0, live)
            if newest and live:
                self._show_live(as_attempt(self._bucket, self._prefix, newest, now))
            if not self._is_unsynced(newest):
                self._bring(entries, now, curves)

    def fetch(self, step: int) -> None:
        """Download the files of the checkpoint of ``step`` that are missing or damaged here."""
        key = f"{CHECKPOINTS}/{step}"
        data = self._bucket.get(self._key(f"{key}/{MANIFEST}"))
        if data is None:
            return
        path = self.path / key
        if self._manifest(str(step)) != data:
            write_bytes(path / MANIFEST, data)
        try:
            files = json.loads(data)["files"]
            # A manifest from elsewhere must not make us write outside this folder.
            inside = {name: file for name, file in files.items() if ".." not in Path(name).parts and name[:1] != "/"}
            missing = [name for name, expected in inside.items() if not is_sound(path / name, expected)]
        except (ValueError, TypeError, KeyError, AttributeError):  # damaged; its reader reports that
            return
        self._bucket.each(lambda name: self._bucket.get_file(self._key(f"{key}/{name}"), path / name), missing)

    def _take(self, watching: Callable[[Attempt], None]) -> ObjectLease:
        """Acquire the lease and download the run's state.

        InputError: a live process holds the run, or one that lost it is still working in this folder.
        """
        lease = ObjectLease(
            self._bucket, self._prefix, watching=watching, beaten=self._touch, leaving=self._leave, left=self._unlock
        )
        try:
            self._lock = self._take_lock()
            self._start(lease)
        except BaseException:
            lease.release()
            raise
        return lease

    def _send(self, *, ending: bool = False) -> None:
        """Upload all changes except the result, and remove from the store what was removed here.

        RunError: another process has taken over.
        """
        lease, bucket = self._lease, self._bucket.brief() if ending else self._bucket
        if lease is None:
            return
        lease.check(bucket)
        here = [step for step in names_in(self.path / CHECKPOINTS) if step.isdigit()]
        for step in sorted(here, key=int):
            self._send_checkpoint(bucket, step, lease)
        files = {name: self.path / name for name in _small_names(self.path) if _is_sent(self.path / name)}
        for name, path in files.items():
            stamp = _stamp(path)
            if self._sent.get(name) != stamp:
                bucket.put_file(self._key(name), path)
                self._sent[name] = stamp
        for name in self._sent.keys() - files.keys() - {RESULT}:
            bucket.delete(self._key(name))
            del self._sent[name]
        for step in self._manifests.keys() - set(here):
            bucket.delete(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}"))
            bucket.delete_folder(self._key(f"{CHECKPOINTS}/{step}"))
            del self._manifests[step]

    def _send_result(self, result: bytes) -> None:
        self._bucket.put(self._key(RESULT), result)

    def remove(self, stale: float) -> bool:
        """Remove the run from the store and the mirror unless a process holds it; whether it was removed.

        A kill leaves a run that is not done. ``stale``: seconds, see ``LeaseTimes``.
        """
        try:
            lease = ObjectLease(self._bucket, self._prefix, replace(TIMES, stale=stale))
        except InputError:
            return False
        try:
            self._bucket.delete(self._key(RESULT))
            for key in filter(_is_manifest, self._entries()):
                self._bucket.delete(self._key(key))
            lease.stop()  # a late heartbeat would leave an object
            self._bucket.delete_folder(self._prefix)
        except BaseException:
            lease.release()
            raise
        remove(self.path)
        remove(self._held)
        return True

    def _start(self, lease: ObjectLease) -> None:
        """Download the store's state, or keep this folder, to be uploaded, if it is unsynced."""
        entries = self._entries()
        unsynced = self._is_unsynced(lease.before)
        if not unsynced:
            self._bring(entries, self._bucket.now, curves=True)
        self._show_attempts(lease.attempt, live=True)
        write_json(attempt_file(self.path, lease.attempt), asdict(lease.owner))
        write_bytes(self._held, lease.claim.tag.encode() if lease.claim else b"")
        steps = {key.split("/")[1] for key in entries if key.startswith(f"{CHECKPOINTS}/") and key.count("/") > 1}
        self._manifests = {
            step: self._bucket.get(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}")) if unsynced else self._manifest(step)
            for step in steps
        }
        self._sent = {key: (-1, -1) if unsynced else _stamp(self.path / key) for key in entries if _is_small(key)}

    def _touch(self) -> None:
        if self._lease is not None:
            with contextlib.suppress(OSError):
                os.utime(attempt_file(self.path, self._lease.attempt))

    def _leave(self) -> None:
        """Upload the rest; if that fails, the mark stays, and the next attempt here uploads it."""
        if self._lease is None:
            return
        with contextlib.suppress(RtScaleError):
            self._send(ending=True)
            remove(self._held)
        with contextlib.suppress(OSError):
            os.utime(attempt_file(self.path, self._lease.attempt), (0, 0))

    def _send_checkpoint(self, bucket: Bucket, step: str, lease: ObjectLease) -> None:
        data = self._manifest(step)
        if data is None or self._manifests.get(step) == data:
            return
        key, folder = f"{CHECKPOINTS}/{step}", self.path / CHECKPOINTS / step
        if step in self._manifests:
            bucket.delete(self._key(f"{key}/{MANIFEST}"))
        self._manifests[step] = None
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        files.remove(MANIFEST)
        bucket.each(lambda name: bucket.put_file(self._key(f"{key}/{name}"), folder / name), files)
        lease.check(bucket)  # sending takes its time
        bucket.put(self._key(f"{key}/{MANIFEST}"), data)
        self._manifests[step] = data

    def _entries(self) -> dict[str, Entry]:
        start = len(self._prefix) + 1
        return {key[start:]: entry for key, entry in self._bucket.entries(self._prefix).items()}

    def _is_unsynced(self, newest: Claim | None) -> bool:
        try:
            return newest is not None and self._held.read_text() == newest.tag
        except FileNotFoundError:
            return False

    def _show_attempts(self, count: int, live: bool) -> None:
        """Make the folder's ``lease`` as in a store in a folder, after ``count`` attempts.

        The caller writes the file of the newest attempt if that is ``live``.
        """
        there = {name for name in names_in(self.path / LEASES) if name.endswith(".json")}
        for name in there - {f"{number}.json" for number in range(1, count + 1)}:
            remove(self.path / LEASES / name)
        for number in range(1, count + (not live)):
            path = attempt_file(self.path, number)
            if path.name not in there or path.stat().st_mtime:
                _write_dated(path, b"", 0.0)

    def _show_live(self, attempt: Attempt) -> None:
        data = to_json(asdict(attempt.owner)) if attempt.owner else b""
        # A heartbeat dated in the future keeps its date until it has not changed for ``stale`` seconds.
        known = not attempt.is_ahead or attempt.still >= self.stale
        age = attempt.silent if known else attempt.age
        path = attempt_file(self.path, attempt.number)
        _write_dated(path, data, file_system_time(path.parent) - age)

    def _bring(self, entries: Mapping[str, Entry], now: Callable[[], float], curves: bool) -> None:
        """Replace the folder's small files by the store's."""
        now = functools.cache(now)
        manifests = {key: entry for key, entry in entries.items() if _is_manifest(key)}
        for step in names_in(self.path / CHECKPOINTS):
            if step.isdigit() and f"{CHECKPOINTS}/{step}/{MANIFEST}" not in manifests:
                remove(self.path / CHECKPOINTS / step)
        small = {key: entry for key, entry in entries.items() if _is_small(key)}
        for name in _small_names(self.path):
            if name not in small and TEMPORARY not in name and not (self.path / name).is_dir():
                remove(self.path / name)
        of_curves = (METRICS, EVENTS, f"{ARTIFACTS}/")
        wanted = {key: entry for key, entry in small.items() if curves or not key.startswith(of_curves)}
        for key, entry in changed_entries(wanted, self.path):
            self._bucket.get_file(self._key(key), self.path / key, date(entry, now()))
        for key, entry in changed_entries(manifests, self.path):
            self._bring_manifest(self.path / key, date(entry, now()))

    def _bring_manifest(self, path: Path, dated: float) -> None:
        data = self._bucket.get(self._key(str(path.relative_to(self.path))))
        if data is None:
            return
        if self._manifest(path.parent.name) != data:
            remove(path.parent)  # the files of another checkpoint
        _write_dated(path, data, dated)

    @contextlib.contextmanager
    def _looking(self) -> Iterator[bool]:
        """Whether no owner works in this folder; then none can start to while the body runs."""
        handle = self._open_lock()
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(handle)

    def _take_lock(self) -> int:
        handle = self._open_lock()
        deadline = time.monotonic() + _WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    raise InputError(
                        f"The mirror '{self.path}' is in use by a process that does not own the run any more. Stop "
                        "that process, or choose another folder with RT_SCALE_MIRROR."
                    ) from None
            time.sleep(0.05)

    def _open_lock(self) -> int:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _manifest(self, step: str) -> bytes | None:
        try:
            return (self.path / CHECKPOINTS / step / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"


def date(entry: Entry, now: float) -> float:
    """The date for an entry's file: a young object may change within the same second, so it must look outdated."""
    return entry.changed - (1.0 if now - entry.changed < _YOUNG else 0.0)


def _is_manifest(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == CHECKPOINTS and parts[1].isdigit() and parts[2] == MANIFEST


def _is_small(key: str) -> bool:
    """Whether the object is one of a run's files that are kept without a manifest: all but checkpoints and leases."""
    folder, _, name = key.rpartition("/")
    return folder in ("", ARTIFACTS) and bool(name)


def _small_names(folder: Path) -> list[str]:
    """The names in a run's folder, and in that of its artifacts."""
    return [*names_in(folder), *(f"{ARTIFACTS}/{name}" for name in names_in(folder / ARTIFACTS))]


def _is_sent(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(TEMPORARY) and path.name != RESULT


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _write_dated(path: Path, data: bytes, changed: float) -> None:
    """Write a file, dated ``changed``, atomically."""
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    os.utime(temporary, (changed, changed))
    os.replace(temporary, path)
