"""The lease of a run in an object store, with the guarantees of ``store.lease``, by a conditional write.

Attempt n is the object ``lease/<n>.exclusive.claim``, written only if it does not exist, so exactly one process creates
it. The heartbeat is the object ``.beat``, the end ``.end``. Numbers are never used twice, so a higher number fences the
owner off: :meth:`check` finds it before each upload. Ages are by the server's clock, and no process takes over before
it has observed the heartbeat (``store.lease.at_work``).

A listing may lag behind writes. So nothing follows from an object that is not listed: that an attempt's number is taken
is found by the conditional write, and what the listing lacks is then looked at by its key.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

from rt_scale.store.atomic import to_json
from rt_scale.store.lease import FOLDER, Attempt, Lease, LeaseTimes, Owner, stood_still
from rt_scale.store.objects.bucket import Bucket, Entry

TIMES = LeaseTimes(heartbeat=15.0, stale=90.0, watch=45.0)
"""Heartbeats are rarer than in a folder: each is a request that costs money."""
_OBJECT = re.compile(rf"{FOLDER}/([0-9]+)\.\w+\.(claim|beat|end)")
"""Key of a claim's object, relative to its run; earlier versions had other words than ``exclusive`` in it."""


@dataclass(frozen=True)
class Claim:
    """A claim of an attempt, from the names and dates (by the server's clock) of its objects.

    Attributes:
        key: of its object, relative to the run.
        tag: unique among all claims.
        put, beat: when it was written, and its last heartbeat, if any.
        ended: whether its owner has ended.
    """

    number: int
    key: str
    tag: str
    put: float
    beat: float | None
    ended: bool


def _objects(entries: Iterable[str]) -> dict[int, dict[str, str]]:
    """The claims' objects among a run's (relative keys): number -> ``claim``, ``beat`` or ``end`` -> key."""
    found: dict[int, dict[str, str]] = {}
    for key in entries:
        if name := _OBJECT.fullmatch(key):
            found.setdefault(int(name[1]), {})[name[2]] = key
    return found


def newest_claim(entries: Mapping[str, Entry]) -> Claim | None:
    """The claim of the newest attempt, from a run's objects (relative key -> entry)."""
    claimed = {number: keys for number, keys in _objects(entries).items() if "claim" in keys}
    if not claimed:
        return None
    number = max(claimed)
    dated = {what: entries[key] for what, key in claimed[number].items()}
    claim, beat = dated["claim"], dated["beat"].changed if "beat" in dated else None
    return Claim(number, claimed[number]["claim"], claim.tag, claim.changed, beat, "end" in dated)


def as_attempt(bucket: Bucket, run: str, claim: Claim, now: Callable[[], float]) -> Attempt:
    """The attempt of ``claim`` at the run with the prefix ``run``; ``now()`` is the time by the server's clock."""
    if claim.ended:
        return Attempt(claim.number, None, float("inf"))
    owner: Owner | None = None
    with contextlib.suppress(ValueError, TypeError):
        owner = Owner(**json.loads(bucket.get(f"{run}/{claim.key}") or b""))
    beat = (claim.tag, claim.beat is not None, claim.beat or claim.put)
    return Attempt(claim.number, owner, now() - beat[2], beat, stood_still(bucket.name(run), beat))


class ObjectLease(Lease):
    """The lease of a run in an object store.

    Attributes:
        before: the previous attempt's claim, if any.
        listed: the run's objects (relative key -> entry) when that was looked at.
        tag: of this attempt's claim.
    """

    def __init__(
        self,
        bucket: Bucket,
        run: str,
        times: LeaseTimes = TIMES,
        watching: Callable[[Attempt], None] = lambda attempt: None,
        *,
        claiming: Callable[[], object] = lambda: None,
        beaten: Callable[[], object] = lambda: None,
        leaving: Callable[[], object] = lambda: None,
        left: Callable[[], object] = lambda: None,
    ) -> None:
        """Acquire the lease of a run; raises as :class:`Lease`.

        Args:
            bucket: the store's objects.
            run: prefix of the run, e.g. ``runs/<name>``.
            times, watching: see :func:`rt_scale.store.lease.at_work`.
            claiming: called before the attempt's object is created.
            beaten: called after every heartbeat.
            leaving: called before the release.
            left: called after the release.
        """
        self._bucket, self._brief, self._run = bucket, bucket.brief(), run
        self._claiming, self._beaten, self._leaving, self._left = claiming, beaten, leaving, left
        self.before: Claim | None = None
        self.listed: dict[str, Entry] = {}
        self.tag = ""
        self._data = b""
        self._next, self._taken = 1, 0
        super().__init__(bucket.name(run), times, watching)

    def _entries(self, folder: str = "", bucket: Bucket | None = None) -> dict[str, Entry]:
        start = len(self._run) + 1
        return {key[start:]: entry for key, entry in (bucket or self._bucket).entries(f"{self._run}{folder}").items()}

    def _look(self) -> Attempt | None:
        entries = self.listed = self._entries()
        # A removed run may leave objects without a claim; an ``.end`` among them must not end this attempt.
        newest = max(_objects(entries), default=0)
        if self._taken and self._taken >= newest:
            entries |= self._looked_at(self._taken)
        self._next = 1 + max(_objects(entries), default=0)
        self.before = claim = newest_claim(entries)
        return None if claim is None else as_attempt(self._bucket, self._run, claim, self._bucket.now)

    def _looked_at(self, number: int) -> dict[str, Entry]:
        """The objects of an attempt that are there, listed or not."""
        keys = [self._key(number, what).removeprefix(f"{self._run}/") for what in ("claim", "beat", "end")]
        found = {key: self._bucket.look(f"{self._run}/{key}") for key in keys}
        return {key: entry for key, entry in found.items() if entry is not None}

    def _claim(self, before: Attempt | None) -> int | None:
        number, silent = self._next, self.before
        if silent is not None and not silent.ended and self._taken < silent.number:
            self._taken = silent.number  # a heartbeat of the owner may not be listed yet
            now = newest_claim(self.listed | self._looked_at(silent.number))
            if now is None or now.ended or int(now.beat or 0) != int(silent.beat or 0):  # listings may be more precise
                return None
        self._claiming()
        self._data = to_json(asdict(self.owner))
        tag = self._bucket.create(self._key(number, "claim"), self._data)
        if tag is None:
            self._taken = number
            return None
        self.tag = tag
        return number

    def _key(self, number: int, what: str) -> str:
        return f"{self._run}/{FOLDER}/{number}.exclusive.{what}"

    def _beat(self) -> None:
        self._brief.put(self._key(self.attempt, "beat"), b"")
        self._beaten()

    def _end(self) -> None:
        self._brief.put(self._key(self.attempt, "end"), b"")

    def check(self, bucket: Bucket | None = None) -> None:
        """See :meth:`Lease.check`; ``bucket``: the objects with another patience."""
        self._check_released()
        newest = newest_claim(self._entries(f"/{FOLDER}", bucket))
        if newest is not None and newest.number > self.attempt:
            raise self._lost(f"attempt {newest.number} does")
        if newest is not None and (newest.number, newest.tag) == (self.attempt, self.tag):
            return
        bucket = bucket or self._bucket  # ours is not listed, or not yet
        if bucket.get(self._key(self.attempt, "claim")) != self._data:
            raise self._lost(f"attempt {newest.number} does" if newest else "it was removed")
        if bucket.look(self._key(self.attempt + 1, "claim")) is not None:
            raise self._lost(f"attempt {self.attempt + 1} does")

    def check_here(self) -> None:
        """RunError if the lease was released.

        The mirror is written even if the store does not answer; a takeover is checked before each upload.
        """
        self._check_released()

    def release(self) -> None:
        """Upload the rest, stop the heartbeat and release the run."""
        if not self._stop.is_set():
            try:
                self._leaving()
            finally:
                super().release()
                self._left()
