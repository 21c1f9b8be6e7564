"""Claims of attempts at a run that an object store keeps; ``remote_lease`` says what they mean."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from rt_scale.store.lease import FOLDER, Attempt, Owner, stood_still
from rt_scale.store.objects.bucket import Bucket, Entry


@dataclass(frozen=True)
class Claim:
    """A claim of an attempt, as the names and dates of its objects tell.

    Attributes:
        number: of the attempt.
        token: of its owner.
        put: when it was written, by the server's clock.
        beat: when its last heartbeat was written; None where there was none yet.
        ended: whether its owner is done.
    """

    number: int
    token: str
    put: float
    beat: float | None
    ended: bool

    @property
    def key(self) -> str:
        """Its object, relative to the run."""
        return claim_key(self.number, self.token, "claim")

    @property
    def alive(self) -> float:
        """When the owner was last heard of, by the server's clock."""
        return self.put if self.beat is None else self.beat  # a beat is the later one, whatever the dates


def claim_key(number: int, token: str, what: str) -> str:
    """The object of a claim, relative to its run; ``what`` is ``claim``, ``beat`` or ``end``."""
    return f"{FOLDER}/{number}.{token}.{what}"


def winners(entries: Mapping[str, Entry]) -> dict[int, Claim]:
    """Who has which attempt.

    Args:
        entries: a run's objects, by keys relative to it.

    Returns:
        number -> the claim that won, in ascending order.
    """
    found: dict[tuple[int, str], dict[str, float]] = {}
    for key, entry in entries.items():
        folder, _, name = key.rpartition("/")
        parts = name.split(".")
        if folder == FOLDER and len(parts) == 3 and parts[0].isdigit():
            found.setdefault((int(parts[0]), parts[1]), {})[parts[2]] = entry.changed
    claims: dict[int, list[Claim]] = {}
    for (number, token), dates in sorted(found.items()):
        if "claim" in dates:
            claim = Claim(number, token, dates["claim"], dates.get("beat"), "end" in dates)
            claims.setdefault(number, []).append(claim)
    # A beat says that the claim was seen to win.
    return {number: min(some, key=lambda each: (each.beat is None, each.put, each.token))
            for number, some in claims.items()}  # fmt: skip


def as_attempt(bucket: Bucket, run: str, claim: Claim, now: float) -> Attempt:
    """The attempt as it is seen from outside.

    Args:
        bucket: the store's objects.
        run: prefix of the run there.
        claim: which has the attempt.
        now: by the server's clock.
    """
    owner: Owner | None = None
    with contextlib.suppress(ValueError, TypeError):
        owner = Owner(**json.loads(bucket.get(f"{run}/{claim.key}") or b""))
    if claim.ended:
        return Attempt(claim.number, owner, float("inf"))
    beat = (claim.token, claim.beat is not None, claim.alive)
    return Attempt(claim.number, owner, now - claim.alive, beat, stood_still(bucket.name(run), beat))
