"""What many runs of a store would compute alike: kept once, under the hash of everything that decides it.

``<store>/constants/<kind>-<hash>/`` holds ``0/`` (files and their checksums, written in one piece, as a checkpoint is)
and ``lease/`` (who computes it). The hash covers what decides the numbers to their last bit, the machine's arithmetic
included, so whoever computes a constant finds the same bits: it may be lost, damaged, removed or computed twice, and no
run changes by it. A run that is done needs none of them.

In an object store the lease is this machine's own, in its mirror: to claim something there takes four seconds, and a
machine that waits for another one gains nothing on one that computes. Several machines may compute a constant at once;
all of them send the same bits. Only what is quicker sent than computed is sent (:data:`LARGEST_SENT`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rt_scale.spec.errors import RtScaleError, RunError
from rt_scale.store.atomic import remove_temporaries
from rt_scale.store.checkpoints import MANIFEST, UNREADABLE, Checkpoints, is_sound, problem_of
from rt_scale.store.lease import Attempt, Lease, latest_attempt

if TYPE_CHECKING:
    from rt_scale.store.objects.bucket import Bucket

T = TypeVar("T")

FOLDER = "constants"
LARGEST_KEPT = 2 << 30
"""Bytes above which features are not kept: a disk would fill with what a GPU computes again within minutes."""
LARGEST_SENT = 256 << 20
"""Bytes above which they are not sent to an object store: a slow link (50 MB/s) has these in 5 s, which is what a GPU
needs to embed a million small images."""
_ONLY = 0
"""A constant has one version, kept as a checkpoint of step 0 is."""


class Damaged(RunError):
    """A constant that is there and cannot be used."""


class Constant:
    """A constant of a store, which may be there or not.

    Attributes:
        path: its folder, in the store or in this machine's mirror of it.
        there: what an object store is known to have of it: bytes, and when they were written; else None.
    """

    def __init__(self, path: Path, bucket: Bucket | None = None, there: tuple[int, float] | None = None) -> None:
        """The constant in a folder.

        Args:
            path: the folder, which need not exist.
            bucket: the object store that it is a mirror of, if any.
            there: see above.
        """
        self.path, self.there, self._bucket = path, there, bucket

    @property
    def name(self) -> str:
        """``<kind>-<hash>``."""
        return self.path.name

    @property
    def largest(self) -> int:
        """Bytes above which it is not worth keeping here."""
        return LARGEST_KEPT if self._bucket is None else LARGEST_SENT

    @property
    def owner(self) -> Attempt | None:
        """Who computed it last, or is about to; None where nobody began."""
        return latest_attempt(self.path)

    def is_held(self, grace: float) -> bool:
        """Whether a live process computes it here; one elsewhere is alive ``grace`` s after its last heartbeat."""
        owner = self.owner
        return owner is not None and owner.is_live(grace)

    def read(self, loader: Callable[[Path], T]) -> T | None:
        """What ``loader`` makes of the folder of its files; None where it is not there.

        Raises:
            Damaged: where it cannot be used, saying why.
        """
        folder = self.path / str(_ONLY)
        if not folder.is_dir():
            return None
        problem = problem_of(folder)
        if problem is None:
            try:
                return loader(folder)
            except UNREADABLE as error:
                problem = f"it cannot be read: {type(error).__name__}: {error}"
        raise Damaged(f"'{folder}' is damaged ({problem})")

    def claim(self, watching: Callable[[Attempt], None] = lambda attempt: None) -> Lease:
        """Become the one process that computes it here; a context manager that gives it free again.

        What killed owners left is cleared away.

        Args:
            watching: see :func:`rt_scale.store.lease.at_work`.

        Raises:
            Held: where a live process computes it.
            InputError, RunError: where the store cannot be written.
        """
        lease = Lease(self.path, watching=watching)
        remove_temporaries(self.path)
        return lease

    def write(self, lease: Lease, writer: Callable[[Path], None]) -> None:
        """Keep what ``writer`` writes into the empty folder that it is given, in place of what is there.

        Raises:
            InputError, RunError: where the disk is full or refuses, or an object store does not answer soon.
        """
        Checkpoints(self.path).save(_ONLY, writer, lease.check)
        if self._bucket is None:
            return
        folder = self.path / str(_ONLY)
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        with self._bucket.brief() as bucket:
            # The list last: without it there is nothing, and with it all is there.
            for name in sorted(files, key=lambda name: name == MANIFEST):
                bucket.put_file(self._key(name), folder / name)

    def bring(self, lease: Lease) -> None:
        """Bring it here from the object store, if that has it whole; else, or where it is away, nothing is done."""
        if self._bucket is None:
            return
        with contextlib.suppress(RtScaleError, *UNREADABLE, KeyError, TypeError), self._bucket.brief() as bucket:
            listed = bucket.get(self._key(MANIFEST))
            if listed is None:
                return
            files: dict[str, dict[str, Any]] = json.loads(listed)["files"]

            def fetch(folder: Path) -> None:
                for name, expected in files.items():
                    # Files of a constant lie side by side: no other path is named by one that we wrote.
                    found = "/" not in name and bucket.get_file(self._key(name), folder / name)
                    if not found or not is_sound(folder / name, expected):
                        raise ValueError(f"{name} is not what was sent")

            Checkpoints(self.path).save(_ONLY, fetch, lease.check)

    def forget(self) -> None:
        """Remove it from the object store, if there is one; raises as ``Bucket.put``."""
        if self._bucket is not None:
            self._bucket.delete(self._key(MANIFEST))
            self._bucket.delete_folder(f"{FOLDER}/{self.name}")

    def _key(self, name: str) -> str:
        return f"{FOLDER}/{self.name}/{_ONLY}/{name}"
