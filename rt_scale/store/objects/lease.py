"""The lease of a run in an object store, with the guarantees of ``store.lease``, by a conditional write.

Attempt n is the object ``lease/<n>.exclusive.claim``, written only if it does not exist, so exactly one process creates
it. The heartbeat is the object ``.beat``, the end ``.end``. Numbers are never used twice, so a higher number fences the
owner off: :meth:`check` finds it before each upload. Ages are by the server's clock, and no process takes over before
it has observed the heartbeat (``store.lease.at_work``).

Versions before December 2026 wrote ``lease/<n>.<token>.claim``, one per process, and decided 4 s later by the earliest
date or beat. They regard an exclusive claim with a beat as the winner. If both versions claim at once, either we see
theirs in the listing after our beat and withdraw ours, or theirs is written later and they see ours.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from rt_scale.store.atomic import to_json
from rt_scale.store.lease import FOLDER, Attempt, Lease, LeaseTimes, Owner, stood_still
from rt_scale.store.objects.bucket import Bucket, Entry

TIMES = LeaseTimes(heartbeat=15.0, stale=90.0, watch=45.0)
"""Heartbeats are rarer than in a folder: each is a request that costs money."""
_TOKEN = "exclusive"


@dataclass(frozen=True)
class Claim:
    """A claim of an attempt, from the names and dates (by the server's clock) of its objects.

    Attributes:
        token: in its objects' names.
        tag: unique among all claims.
        put, beat: when it was written, and its last heartbeat, if any.
        ended: whether its owner has ended.
    """

    number: int
    token: str
    tag: str
    put: float
    beat: float | None
    ended: bool

    @property
    def alive(self) -> float:
        """When the owner last wrote, by the server's clock."""
        return self.put if self.beat is None else self.beat


def _object(number: int, what: str, token: str = _TOKEN) -> str:
    """Key of a claim's object, relative to its run; ``what`` is ``claim``, ``beat`` or ``end``."""
    return f"{FOLDER}/{number}.{token}.{what}"


def _objects(entries: Mapping[str, Entry]) -> dict[tuple[int, str], dict[str, Entry]]:
    """The claims' objects among a run's (relative key -> entry): (number, token) -> what -> entry."""
    found: dict[tuple[int, str], dict[str, Entry]] = {}
    for key, entry in entries.items():
        folder, _, name = key.rpartition("/")
        parts = name.split(".")
        if folder == FOLDER and len(parts) == 3 and parts[0].isdecimal():
            found.setdefault((int(parts[0]), parts[1]), {})[parts[2]] = entry
    return found


def newest_claim(entries: Mapping[str, Entry]) -> Claim | None:
    """The claim of the newest attempt, from a run's objects (relative key -> entry)."""
    claims = [
        Claim(number, token, each["claim"].tag or str(each["claim"].changed), each["claim"].changed,
              each["beat"].changed if "beat" in each else None, "end" in each)
        for (number, token), each in _objects(entries).items() if "claim" in each
    ]  # fmt: skip
    number = max((claim.number for claim in claims), default=0)
    # Earlier versions made several claims of one number: the winner has a beat, else the earliest date.
    rivals = [claim for claim in claims if claim.number == number]
    return min(rivals, key=lambda claim: (claim.beat is None, claim.put, claim.token), default=None)


def as_attempt(bucket: Bucket, run: str, claim: Claim, now: Callable[[], float]) -> Attempt:
    """The attempt of ``claim`` at the run with the prefix ``run``; ``now()`` is the time by the server's clock."""
    if claim.ended:
        return Attempt(claim.number, None, float("inf"))
    owner: Owner | None = None
    with contextlib.suppress(ValueError, TypeError):
        owner = Owner(**json.loads(bucket.get(f"{run}/{_object(claim.number, 'claim', claim.token)}") or b""))
    beat = (claim.token, claim.tag, claim.beat is not None, claim.alive)
    return Attempt(claim.number, owner, now() - claim.alive, beat, stood_still(bucket.name(run), beat))


class ObjectLease(Lease):
    """The lease of a run in an object store; ``before`` is the previous attempt's claim, ``claim`` this attempt's."""

    def __init__(
        self,
        bucket: Bucket,
        run: str,
        times: LeaseTimes = TIMES,
        watching: Callable[[Attempt], None] = lambda attempt: None,
        *,
        beaten: Callable[[], object] = lambda: None,
        leaving: Callable[[], object] = lambda: None,
        left: Callable[[], object] = lambda: None,
    ) -> None:
        """Acquire the lease of a run; raises as :class:`Lease`.

        Args:
            bucket: the store's objects.
            run: prefix of the run, e.g. ``runs/<name>``.
            times, watching: see :func:`rt_scale.store.lease.at_work`.
            beaten: called after every heartbeat.
            leaving: called before the release.
            left: called after the release.
        """
        self._bucket, self._brief, self._run = bucket, bucket.brief(), run
        self._beaten, self._leaving, self._left = beaten, leaving, left
        self.before: Claim | None = None
        self.claim: Claim | None = None
        self._next = 1
        super().__init__(bucket.name(run), times, watching)

    def _entries(self, bucket: Bucket | None = None) -> dict[str, Entry]:
        start = len(self._run) + 1
        return {key[start:]: entry for key, entry in (bucket or self._bucket).entries(f"{self._run}/{FOLDER}").items()}

    def _look(self) -> Attempt | None:
        entries = self._entries()
        # A removed run may leave objects without a claim; an ``.end`` among them must not end this attempt.
        self._next = 1 + max((number for number, _ in _objects(entries)), default=0)
        self.before = claim = newest_claim(entries)
        return None if claim is None else as_attempt(self._bucket, self._run, claim, self._bucket.now)

    def _claim(self, before: Attempt | None) -> int | None:
        number = self._next
        if not self._bucket.create(self._key(number, "claim"), to_json(asdict(self.owner))):
            return None
        self._bucket.put(self._key(number, "beat"), b"")
        entries = self._entries()
        self.claim = newest_claim(entries)
        if not any(each[0] >= number and each[1] != _TOKEN for each in _objects(entries)):
            return number
        for what in ("claim", "beat"):
            self._bucket.delete(self._key(number, what))
        return None

    def _key(self, number: int, what: str) -> str:
        return f"{self._run}/{_object(number, what)}"

    def _beat(self) -> None:
        self._brief.put(self._key(self.attempt, "beat"), b"")
        self._beaten()

    def _end(self) -> None:
        self._brief.put(self._key(self.attempt, "end"), b"")

    def check(self, bucket: Bucket | None = None) -> None:
        """See :meth:`Lease.check`; ``bucket``: the objects with another patience."""
        self._check_released()
        newest = newest_claim(self._entries(bucket))
        if newest is None or self.claim is None or (newest.number, newest.tag) != (self.attempt, self.claim.tag):
            raise self._lost(f"attempt {newest.number} does" if newest else "it was removed")

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
