"""The holder's side of a run in an object store: it works in the mirror's folder, and sends what changed.

It sends after each durable write, in an order that keeps the meaning: a checkpoint's files before its manifest, without
which it does not exist, and the result last of all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rt_scale.spec.errors import InputError, RtScaleError
from rt_scale.store.atomic import to_json, write_bytes, write_json
from rt_scale.store.checkpoints import MANIFEST
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import Attempt
from rt_scale.store.objects.bucket import Bucket
from rt_scale.store.objects.claims import Claim
from rt_scale.store.objects.lease import HEARTBEAT, STALE, RemoteLease
from rt_scale.store.objects.mirror import CHECKPOINTS, RunMirror, is_manifest, names
from rt_scale.system.files import TEMPORARY, remove

RESULT = "result.json"
_WAIT = 30.0
"""Seconds that a holder waits for those who are looking."""


class RemoteRun(RunMirror):
    """A run in an object store, which this process may come to hold."""

    def __init__(self, bucket: Bucket, name: str, root: Path) -> None:
        """As :class:`RunMirror`."""
        super().__init__(bucket, name, root)
        self._lease: RemoteLease | None = None
        self._lock: int | None = None
        self._sent: dict[str, tuple[int, int]] = {}
        self._manifests: dict[str, bytes | None] = {}

    def acquire(
        self,
        *,
        heartbeat: float = HEARTBEAT,
        stale: float = STALE,
        watching: Callable[[Attempt], None] = lambda attempt: None,
    ) -> RemoteLease:
        """Become the one who writes the run, with its state here; the lease gives it free again.

        Raises:
            InputError: where a live process holds it, or one that lost it is still working in this folder.
            StoreAway: where the store does not answer.
        """
        lease = RemoteLease(
            self._bucket, self._prefix, heartbeat=heartbeat, stale=stale, watching=watching,
            beaten=self._touch, leaving=self._leave, left=self._unlock,
        )  # fmt: skip
        try:
            self._lock = self._take()
            self._settle(lease)
            self._lease = lease
        except BaseException:
            lease.release()
            raise
        return lease

    def _settle(self, lease: RemoteLease) -> None:
        """Bring the store's state here, or, where this folder is ahead of it, keep what is here to be sent."""
        entries = self._entries()
        ahead = self._is_ahead(lease.before)
        if not ahead:
            self._bring(entries, self._bucket.now, curves=True)
        self._show_attempts(Claim(lease.attempt, "", 0.0, None, True), time.time)
        write_json(self._lease_path(lease), asdict(lease.owner))
        write_bytes(self._held, lease.owner.token.encode())
        steps = {key.split("/")[1] for key in entries if key.startswith(f"{CHECKPOINTS}/") and key.count("/") > 1}
        self._manifests = {
            step: self._bucket.get(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}")) if ahead else self._manifest(step)
            for step in steps
        }
        self._sent = {key: (-1, -1) if ahead else _stamp(self.folder / key) for key in entries if "/" not in key}

    def _take(self) -> int:
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
                        f"The mirror '{self.folder}' is in use by a process that does not own the run any more. Stop "
                        "that process, or choose another folder with RT_SCALE_MIRROR."
                    ) from None
            time.sleep(0.05)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _touch(self) -> None:
        if self._lease is not None:
            with contextlib.suppress(OSError):
                os.utime(self._lease_path(self._lease))

    def _lease_path(self, lease: RemoteLease) -> Path:
        return self.folder / LEASES / f"{lease.attempt}.json"

    def _leave(self) -> None:
        """Send what is left; where that cannot be, the mark stays, and the next attempt here sends it."""
        lease = self._lease
        if lease is None:
            return
        with contextlib.suppress(RtScaleError), self._bucket.brief() as bucket:
            self.send(bucket)
            remove(self._held)
        with contextlib.suppress(OSError):
            os.utime(self._lease_path(lease), (0, 0))

    def send(self, bucket: Bucket | None = None) -> None:
        """Send everything that changed here but the result; what is gone here goes there.

        Args:
            bucket: the store's objects, where another patience is wanted than usual.

        Raises:
            RunError: where another process has taken the run over, or the store does not answer.
            InputError: where the store refuses.
        """
        lease, bucket = self._lease, bucket or self._bucket
        if lease is None:
            return
        lease.check(bucket)
        here = [step for step in names(self.folder / CHECKPOINTS) if step.isdigit()]
        for step in sorted(here, key=int):
            self._send_checkpoint(bucket, step, lease)
        files = {name: self.folder / name for name in names(self.folder) if _is_sent(self.folder / name)}
        for name, path in files.items():
            stamp = _stamp(path)
            if self._sent.get(name) != stamp:
                bucket.put_file(self._key(name), path)
                self._sent[name] = stamp
        for name in self._sent.keys() - files.keys() - {RESULT}:
            bucket.delete(self._key(name))
            del self._sent[name]
        for step in self._manifests.keys() - set(here):
            self._delete_checkpoint(bucket, step)

    def complete(self, result: Mapping[str, Any]) -> None:
        """Send all that is left, then the result; only then is it here as well."""
        self.send()
        # An interrupt reaches the main thread alone: elsewhere, it would end the object before its contents are in it.
        self._bucket.each(lambda data: self._bucket.put(self._key(RESULT), data), [to_json(result)])
        write_json(self.folder / RESULT, result)

    def send_failure(self) -> None:
        """Send what is left if that works now: what failed is told by whoever calls."""
        with contextlib.suppress(RtScaleError), self._bucket.brief() as bucket:
            self.send(bucket)

    def _send_checkpoint(self, bucket: Bucket, step: str, lease: RemoteLease) -> None:
        data = self._manifest(step)
        if data is None or self._manifests.get(step) == data:
            return
        key, folder = f"{CHECKPOINTS}/{step}", self.folder / CHECKPOINTS / step
        if step in self._manifests:
            bucket.delete(self._key(f"{key}/{MANIFEST}"))
        self._manifests[step] = None
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        names.remove(MANIFEST)
        bucket.each(lambda name: bucket.put_file(self._key(f"{key}/{name}"), folder / name), names)
        lease.check(bucket)  # sending takes its time
        bucket.put(self._key(f"{key}/{MANIFEST}"), data)
        self._manifests[step] = data

    def _delete_checkpoint(self, bucket: Bucket, step: str) -> None:
        bucket.delete(self._key(f"{CHECKPOINTS}/{step}/{MANIFEST}"))
        bucket.delete_folder(self._key(f"{CHECKPOINTS}/{step}"))
        del self._manifests[step]

    def remove(self, stale: float) -> bool:
        """Remove the run from the store and from here, unless somebody holds it; whether it is gone.

        Killed on the way, it leaves a run that is not done.
        """
        try:
            lease = RemoteLease(self._bucket, self._prefix, stale=stale)
        except InputError:
            return False
        try:
            self._bucket.delete(self._key(RESULT))
            for key in self._entries():
                if is_manifest(key):
                    self._bucket.delete(self._key(key))
            self._bucket.delete_folder(self._prefix)
        except BaseException:
            lease.release()
            raise
        lease.abandon()
        remove(self.folder)
        remove(self._held)
        return True


def _is_sent(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(TEMPORARY) and path.name != RESULT


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
