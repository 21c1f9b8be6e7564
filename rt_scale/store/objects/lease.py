"""Who is running a run that an object store keeps: the same promise as ``store.lease``, by a conditional write.

The claim of attempt ``n`` is the object ``lease/<n>.exclusive.claim``, which is only written where it is not: the store
lets exactly one contender do so. It is never written again; the heartbeat is an object of its own, ``.beat``, and so is
the end, ``.end``. Numbers are never given twice, so that an owner is fenced off by the mere presence of a higher one:
:meth:`check`, before anything is sent. Ages are differences of dates by the server's clock, and nobody is replaced who
was not watched (``store.lease.at_work``).

Before December 2026 the claims of attempt ``n`` were ``lease/<n>.<token>.claim``, one a contender, who each looked 4 s
later whose was dated first, or had a beat. Such drivers take an exclusive claim with its beat for one that has won, and
keep off. A claim of theirs that is being made at the same moment is either seen by the one look after ours and its beat
are written, and ours is taken back; or it is written after that look, and its owner sees ours.
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
"""A heartbeat is a request that costs money."""
_TOKEN = "exclusive"


@dataclass(frozen=True)
class Claim:
    """A claim of an attempt, as the names and dates (by the server's clock) of its objects tell.

    Attributes:
        token: in its objects' names.
        tag: tells this claim from any other that was ever made.
        put, beat: when it was written, and its last heartbeat; None where there was none yet.
        ended: whether its owner is done.
    """

    number: int
    token: str
    tag: str
    put: float
    beat: float | None
    ended: bool

    @property
    def alive(self) -> float:
        """When the owner was last heard of, by the server's clock."""
        return self.put if self.beat is None else self.beat  # a beat is the later one, whatever the dates


def _object(number: int, what: str, token: str = _TOKEN) -> str:
    """The object of a claim, relative to its run; ``what`` is ``claim``, ``beat`` or ``end``."""
    return f"{FOLDER}/{number}.{token}.{what}"


def _objects(entries: Mapping[str, Entry]) -> dict[tuple[int, str], dict[str, Entry]]:
    """The objects of claims: (number, token) -> what -> entry, of a run's objects by relative key."""
    found: dict[tuple[int, str], dict[str, Entry]] = {}
    for key, entry in entries.items():
        folder, _, name = key.rpartition("/")
        parts = name.split(".")
        if folder == FOLDER and len(parts) == 3 and parts[0].isdecimal():
            found.setdefault((int(parts[0]), parts[1]), {})[parts[2]] = entry
    return found


def newest_claim(entries: Mapping[str, Entry]) -> Claim | None:
    """The claim that has the newest attempt, as a run's objects (relative key -> entry) tell."""
    claims = [
        Claim(number, token, each["claim"].tag or str(each["claim"].changed), each["claim"].changed,
              each["beat"].changed if "beat" in each else None, "end" in each)
        for (number, token), each in _objects(entries).items() if "claim" in each
    ]  # fmt: skip
    number = max((claim.number for claim in claims), default=0)
    # Of several of one number, as earlier versions made them, one with a beat was seen to win, else the first one.
    rivals = [claim for claim in claims if claim.number == number]
    return min(rivals, key=lambda claim: (claim.beat is None, claim.put, claim.token), default=None)


def as_attempt(bucket: Bucket, run: str, claim: Claim, now: Callable[[], float]) -> Attempt:
    """The attempt of ``claim`` at the run with the prefix ``run``; ``now`` tells the time by the server's clock."""
    if claim.ended:
        return Attempt(claim.number, None, float("inf"))
    owner: Owner | None = None
    with contextlib.suppress(ValueError, TypeError):
        owner = Owner(**json.loads(bucket.get(f"{run}/{_object(claim.number, 'claim', claim.token)}") or b""))
    beat = (claim.token, claim.tag, claim.beat is not None, claim.alive)
    return Attempt(claim.number, owner, now() - claim.alive, beat, stood_still(bucket.name(run), beat))


class ObjectLease(Lease):
    """The right to write into a run of an object store.

    Attributes:
        before: the claim that had the attempt before this one; None for the first.
        claim: this attempt's.
    """

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
            run: prefix of the run there, e.g. ``runs/<name>``.
            times: of heartbeats.
            watching: see :func:`rt_scale.store.lease.at_work`.
            beaten: called after every heartbeat.
            leaving: called before the run is given free.
            left: called afterwards.
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
        # Objects without a claim are left of a removed run; an end among them must not end this attempt.
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
        """See :meth:`Lease.check`; ``bucket`` where another patience is wanted than usual."""
        self._check_released()
        newest = newest_claim(self._entries(bucket))
        if newest is None or self.claim is None or (newest.number, newest.tag) != (self.attempt, self.claim.tag):
            raise self._lost(f"attempt {newest.number} does" if newest else "it was removed")

    def check_here(self) -> None:
        """Make sure that the lease was not released (RunError).

        A store that is away must not keep the mirror from being written, and whether another has taken over is asked
        before anything is sent.
        """
        self._check_released()

    def release(self) -> None:
        """Send what is left, stop the heartbeat and give the run free."""
        if not self._stop.is_set():
            try:
                self._leaving()
            finally:
                super().release()
                self._left()
