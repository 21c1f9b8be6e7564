"""A run of an object store, and this machine's mirror of it.

The owner works in the mirror's folder. Every ``UPLOAD_S`` seconds a thread uploads what changed, and the rest goes when
the run ends or is stopped: a checkpoint's files before its manifest, without which the checkpoint does not exist, and
the result last. Other processes download the small files, and a checkpoint's files on demand.

For each run, ``.mirror`` holds a lock, shared by readers and exclusive to the owner, so that no download replaces what
the owner writes; ``.held``, which names the attempt that has worked in this folder and not uploaded everything; and
``.known``, the versions of the files here. If that attempt is the newest, the folder is unsynced and is kept; else the
store's contents replace it.

A listing may lag behind writes: a file of a known version is removed here only if the object is not there either.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from rt_scale.spec.errors import InputError, RtScaleError
from rt_scale.store.atomic import names_in, to_json, write_bytes, write_json
from rt_scale.store.checkpoints import MANIFEST, is_sound
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import Attempt, attempt_file, file_system_time
from rt_scale.store.objects.bucket import Bucket, Entry
from rt_scale.store.objects.index import OPEN, Indexed
from rt_scale.store.objects.known import Known
from rt_scale.store.objects.lease import TIMES, Claim, ObjectLease, as_attempt, newest_claim
from rt_scale.store.objects.names import is_manifest, is_small, small_names
from rt_scale.store.run_dir import CHECKPOINTS, ENVIRONMENT, METRICS, RESULT, RUNS, SPEC, RunDir
from rt_scale.system.files import TEMPORARY, remove, temporary_name

MARKS = ".mirror"
UPLOAD_S = 10.0
"""Seconds between two uploads: at most so much work is lost with a machine, beside what is being uploaded."""
_WAIT = 30.0
"""Seconds that an owner waits for readers."""


class ObjectRun(RunDir):
    """A run of an object store; requests raise InputError if the store refuses, StoreUnavailable if it is silent."""

    stale = TIMES.stale

    def __init__(self, bucket: Bucket, name: str, root: Path) -> None:
        """The run ``name`` of ``bucket``, mirrored below the folder ``root``."""
        self._bucket, self._prefix, self._mark = bucket, f"{RUNS}/{name}", f"{OPEN}/{name}.run"
        super().__init__(root / RUNS / name)
        self._marks = root / MARKS
        self._lease: ObjectLease | None = None
        self._lock: int | None = None
        self._manifests: dict[str, bytes | None] = {}
        self._sending, self._changed, self._over = threading.Lock(), threading.Event(), threading.Event()
        self._sender: threading.Thread | None = None
        self._behind = False

    def _mark_file(self, end: str) -> Path:
        """The file beside the mirror: ``lock``, ``held``, ``links`` or ``known``."""
        return self._marks / f"{self.name}.{end}"

    @functools.cached_property
    def _known(self) -> Known:
        return Known(self._mark_file("known"), self.path)

    def refresh(self) -> None:
        """Download the run's small files and the state of its lease."""
        entries = self._entries()
        # The listing may lag behind a result that another process has just written.
        if RESULT not in entries and (result := self._look(RESULT)):
            entries |= result
            for name in {SPEC, ENVIRONMENT, METRICS} - entries.keys():
                entries |= self._look(name)
        self.show(entries, self._bucket.now, ())

    def show(self, entries: Mapping[str, Entry], now: Callable[[], float], without: tuple[str, ...]) -> None:
        """As :meth:`refresh`, of objects (relative key -> entry) listed before.

        ``now``: the server's clock; ``without``: starts of the names of files that are not brought.
        """
        if not entries and not self.path.exists():
            return
        with self._looking() as free:
            if not free:  # the owner works in this folder
                return
            self._known.read()
            if not entries:
                self._show_removed()
                return
            newest = newest_claim(entries)
            live = newest is not None and not newest.ended
            self._show_attempts(newest.number if newest else 0, live)
            if newest and live:
                self._show_live(as_attempt(self._bucket, self._prefix, newest, now))
            if not self._is_unsynced(newest):
                self._bring(entries, without)

    def show_indexed(self, found: Indexed, files: Mapping[str, bytes], without: tuple[str, ...]) -> None:
        """As :meth:`show`, of a finished run in the index; brings what is neither here nor in ``files``."""
        with self._looking() as free:
            if not free:
                return
            self._show_attempts(found.attempts, live=False)
            for step in found.steps:
                (self.path / CHECKPOINTS / str(step)).mkdir(parents=True, exist_ok=True)
            for name in found.files:
                path = self.path / name
                if path.exists() or name.startswith(without):
                    continue
                if name in files:
                    _write(path, files[name])
                else:
                    self._bucket.get_file(self._key(name), path)

    def _show_removed(self) -> None:
        if not any(map(self._look, (RESULT, SPEC))):
            remove(self.path)
            self._known.forget()

    def _look(self, name: str) -> dict[str, Entry]:
        """The entry of one of the run's objects, listed or not; empty if there is none."""
        entry = self._bucket.look(self._key(name))
        return {} if entry is None else {name: entry}

    def fetch(self, step: int) -> None:
        """Download the files of the checkpoint of ``step`` that are missing or damaged here."""
        key = f"{CHECKPOINTS}/{step}"
        data = self._bucket.get(self._key(f"{key}/{MANIFEST}"))
        if data is None:
            return
        path = self.path / key
        if self._manifest(str(step)) != data:
            write_bytes(path / MANIFEST, data)
        self._manifests[str(step)] = data
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
            self._bucket, self._prefix, watching=watching, claiming=self._begin, beaten=self._touch,
            leaving=self._leave, left=self._unlock,
        )  # fmt: skip
        try:
            self._lock = self._take_lock()
            self._start(lease)
        except BaseException:
            lease.release()
            raise
        self._over.clear()
        self._sender = threading.Thread(target=self._keep_sending, args=(lease,), name="sender", daemon=True)
        self._sender.start()
        return lease

    def _begin(self) -> None:
        self._bucket.put(self._mark, b"")

    def _keep_sending(self, lease: ObjectLease) -> None:
        while not self._over.wait(UPLOAD_S):
            if self._changed.is_set():
                try:
                    self._upload(lease, self._bucket.brief())
                except Exception:
                    self._behind = True  # the run's next write tries again, and raises what it meets

    def _send(self, *, now: bool = False, ending: bool = False) -> None:
        """See :meth:`RunDir._send`; RunError: another process has taken over."""
        self._changed.set()
        if self._lease is not None and (now or ending or self._behind):
            self._upload(self._lease, self._bucket.brief() if ending else self._bucket)
            self._behind = False

    def _upload(self, lease: ObjectLease, bucket: Bucket) -> None:
        """Upload all changes except the result, and remove from the store what was removed here."""
        with self._sending:
            self._changed.clear()
            try:
                lease.check(bucket)
                self._upload_checkpoints(lease, bucket)
                files = [name for name in small_names(self.path) if _is_sent(self.path / name)]
                bucket.each(lambda name: self._upload_file(bucket, name), filter(self._known.differs, files))
                gone = self._known.names() - {*files, RESULT}
                bucket.delete([self._key(name) for name in sorted(gone)])
                self._known.drop(gone)
            except BaseException:
                self._changed.set()
                raise

    def _upload_file(self, bucket: Bucket, name: str) -> None:
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            stamp = Known.stamp(path)
            # Read first: an event file grows while it is sent.
            self._known.put(name, bucket.put(self._key(name), path.read_bytes()), stamp)

    def _upload_checkpoints(self, lease: ObjectLease, bucket: Bucket) -> None:
        folder = self.path / CHECKPOINTS
        here = {step: self._manifest(step) for step in names_in(folder) if step.isdigit()}
        new = {step: data for step, data in here.items() if data is not None and self._manifests.get(step) != data}
        replaced = [step for step in new if self._manifests.get(step) is not None]
        bucket.delete([self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}") for step in replaced])
        self._manifests |= dict.fromkeys(new)
        self._send_files(bucket, new)
        if new:
            lease.check(bucket)  # sending takes its time
        bucket.each(lambda step: bucket.put(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}"), new[step]), new)
        self._manifests |= new
        removed = [step for step in self._manifests if step not in here]
        bucket.delete([self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}") for step in removed])
        for step in removed:
            bucket.delete_folder(self._key(f"{CHECKPOINTS}/{step}"))
            del self._manifests[step]

    def _send_files(self, bucket: Bucket, new: dict[str, bytes]) -> None:
        """Upload the files of checkpoints (step -> manifest); drops those that are removed before it begins."""
        # The run may prune a checkpoint before a slow network has it, so links are uploaded.
        links = self._mark_file("links")
        remove(links)
        for step, data in [*new.items()]:
            (links / step).mkdir(parents=True)
            try:
                for name in json.loads(data)["files"]:
                    link = links / step / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.link(self.path / CHECKPOINTS / step / name, link)
            except FileNotFoundError:
                del new[step]
        files = [(step, name) for step, data in new.items() for name in json.loads(data)["files"]]
        key = f"{self._prefix}/{CHECKPOINTS}"
        bucket.each(
            lambda file: bucket.put_file(f"{key}/{file[0]}/{file[1]}", links / file[0] / file[1]),
            files,
        )
        remove(links)

    def _send_result(self, result: bytes) -> None:
        self._known.put(RESULT, self._bucket.put(self._key(RESULT), result))
        self._bucket.delete([self._mark])

    def remove(self, stale: float) -> bool:
        """Remove the run from the store and the mirror unless a process holds it; whether it was removed.

        A kill leaves a run that is not done. ``stale``: seconds, see ``LeaseTimes``.
        """
        try:
            # Marked as not done first: the index may have it.
            lease = ObjectLease(self._bucket, self._prefix, replace(TIMES, stale=stale), claiming=self._begin)
        except InputError:
            return False
        try:
            self._bucket.delete([self._key(RESULT)])
            self._bucket.delete([self._key(key) for key in filter(is_manifest, self._entries())])
            lease.stop()  # a late heartbeat would leave an object
            self._bucket.delete_folder(self._prefix)
            self._bucket.delete([self._mark])
        except BaseException:
            lease.release()
            raise
        remove(self.path)
        remove(self._mark_file("held"))
        self._known.forget()
        return True

    def _start(self, lease: ObjectLease) -> None:
        """Download the store's state, or keep this folder, to be uploaded, if it is unsynced."""
        # Who has ended writes nothing more, and no process had the number of this attempt before.
        entries = lease.listed if lease.before is None or lease.before.ended else self._entries()
        if lease.attempt > 1:  # the listing may lag behind what another process has just written
            for name in {RESULT, SPEC, ENVIRONMENT} - entries.keys():
                entries |= self._look(name)
        if RESULT in entries:
            self._bucket.delete([self._mark])
        self._known.read()
        self._behind = unsynced = self._is_unsynced(lease.before)
        if not unsynced:
            self._bring(entries, ())
        self._show_attempts(lease.attempt, live=True)
        write_json(attempt_file(self.path, lease.attempt), asdict(lease.owner))
        write_bytes(self._mark_file("held"), lease.tag.encode())
        steps = {key.split("/")[1] for key in entries if key.startswith(f"{CHECKPOINTS}/") and key.count("/") > 1}
        self._manifests = {
            step: self._bucket.get(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}")) if unsynced else self._manifest(step)
            for step in steps
        }
        if unsynced:
            self._known.forget()
            for name in filter(is_small, entries):
                self._known.put(name, entries[name].tag)

    def _touch(self) -> None:
        if self._lease is not None:
            with contextlib.suppress(OSError):
                os.utime(attempt_file(self.path, self._lease.attempt))

    def _leave(self) -> None:
        """Upload the rest; if that fails, the mark stays, and the next attempt here uploads it."""
        self._over.set()
        if self._sender is not None:
            self._sender.join()
        if self._lease is None:
            return
        with contextlib.suppress(RtScaleError, FileNotFoundError):
            self._send(ending=True)
            self._known.equal(RESULT)
            self._known.write()
            remove(self._mark_file("held"))
        with contextlib.suppress(OSError):
            os.utime(attempt_file(self.path, self._lease.attempt), (0, 0))

    def _entries(self) -> dict[str, Entry]:
        start = len(self._prefix) + 1
        return {key[start:]: entry for key, entry in self._bucket.entries(self._prefix).items()}

    def _is_unsynced(self, newest: Claim | None) -> bool:
        try:
            return newest is not None and self._mark_file("held").read_text().strip('"') == newest.tag
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
                _write(path, b"", 0.0)

    def _show_live(self, attempt: Attempt) -> None:
        data = to_json(asdict(attempt.owner)) if attempt.owner else b""
        # A heartbeat dated in the future keeps its date until it has not changed for ``stale`` seconds.
        known = not attempt.is_ahead or attempt.still >= self.stale
        age = attempt.silent if known else attempt.age
        path = attempt_file(self.path, attempt.number)
        _write(path, data, file_system_time(path.parent) - age)

    def _bring(self, entries: Mapping[str, Entry], without: tuple[str, ...]) -> None:
        """Replace the folder's small files by the store's; checkpoints become folders, filled when they are read."""
        manifests = {key.split("/")[1]: entry for key, entry in entries.items() if is_manifest(key)}
        here = {step for step in names_in(self.path / CHECKPOINTS) if step.isdigit()}
        for step in here:
            if step not in manifests:
                remove(self.path / CHECKPOINTS / step)
        for step in manifests.keys() - here:
            (self.path / CHECKPOINTS / step).mkdir(parents=True)
        small = {key: entry for key, entry in entries.items() if is_small(key)}
        for name in small_names(self.path):
            if name not in small and TEMPORARY not in name and not (self.path / name).is_dir():
                if name in self._known.names() and self._look(name):
                    continue
                remove(self.path / name)
        wanted = {key: entry for key, entry in small.items() if not key.startswith(without)}
        for key, entry in wanted.items():
            if self._known.differs(key, entry.tag):
                tag = self._bucket.get_file(self._key(key), self.path / key)
                if tag is not None:
                    self._known.put(key, tag, Known.stamp(self.path / key))
        self._known.keep(small)
        self._known.write()

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
        self._mark_file("lock").parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._mark_file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

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


def _is_sent(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(TEMPORARY) and path.name != RESULT


def _write(path: Path, data: bytes, changed: float | None = None) -> None:
    """Write a file, dated ``changed`` (None: now), atomically; what the store has need not survive a power cut."""
    temporary = temporary_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(data)
    if changed is not None:
        os.utime(temporary, (changed, changed))
    os.replace(temporary, path)
