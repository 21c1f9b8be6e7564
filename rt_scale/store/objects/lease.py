"""Who is running a run that an object store keeps: the same promise as ``lease``, without files that lock.

An object store of this kind cannot say "write this only where nothing is", so that contenders for attempt ``n`` each
write a claim of their own, ``lease/<n>.<token>.claim``, wait :data:`SETTLING`, and look who there is:

- The claim with the least (date by the server's clock, token) has the attempt. Everybody else takes his claim back and
  looks again from the start. A claim is never written again, so its date stays; the heartbeat is an object of its own,
  ``.beat``, and so is the end, ``.end``. Only who found himself the winner writes a beat, so a claim with one has won.
- Nobody can come before a winner afterwards. Let A have looked at time ``t``, at least SETTLING after its claim was
  written, and seen no earlier claim. A claim B with an earlier or equal date was dated before A's was written, or
  within :data:`RESOLUTION` of it, and was not there to be seen at ``t`` (stores list at once what is written). So
  writing B took longer than SETTLING - RESOLUTION, by B's own watch as well; whoever needed that long takes his claim
  back, whatever he then sees. Whose claim is written later than A's is dated later, and loses: to A while it is at
  work, and to the fact that A had attempt ``n`` when it is not.
- A claim whose process died before it looked counts as at work until it is stale, or is known to be dead.

Numbers are never given twice, so that an owner is fenced off by the mere presence of a higher one: :meth:`check`,
before every write. Ages are differences of dates by one clock, the server's; clocks of the machines do not matter. As
that one may be set, too, nobody is replaced who was not watched (``lease.at_work``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType

from rt_scale.spec.errors import Held, RtScaleError, RunError, StoreAway
from rt_scale.store.atomic import to_json
from rt_scale.store.lease import FOLDER, Attempt, Owner, at_work
from rt_scale.store.objects.bucket import Bucket
from rt_scale.store.objects.claims import Claim, as_attempt, claim_key, winners

HEARTBEAT = 15.0
"""Seconds between heartbeats; each is a request that costs money."""
STALE = 90.0
"""Seconds without a heartbeat after which an owner elsewhere counts as gone."""
WATCH = 45.0
"""Of these, the last, for which whoever replaces the owner watches himself: three heartbeats."""
SETTLING = 4.0
"""Seconds between a claim and the look at who won."""
RESOLUTION = 2.0
"""Seconds within which the order of two dates may be wrong: S3's are whole seconds, by clocks that agree to less."""
_TRIES = 20


class RemoteLease:
    """The right to write into a run of an object store, kept up by a heartbeat until :meth:`release`.

    Attributes:
        attempt: number of this attempt at the run, from 1.
        owner: this process as recorded.
        before: the claim that had the attempt before this one; None for the first.
    """

    def __init__(
        self,
        bucket: Bucket,
        run: str,
        *,
        heartbeat: float = HEARTBEAT,
        stale: float = STALE,
        watching: Callable[[Attempt], None] = lambda attempt: None,
        beaten: Callable[[], object] = lambda: None,
        leaving: Callable[[], object] = lambda: None,
        left: Callable[[], object] = lambda: None,
    ) -> None:
        """Acquire the lease of a run; takes :data:`SETTLING` seconds.

        Args:
            bucket: the store's objects.
            run: prefix of the run there, e.g. ``runs/<name>``.
            heartbeat: seconds between heartbeats.
            stale: seconds without a heartbeat after which another owner counts as gone.
            watching: see :func:`rt_scale.store.lease.at_work`.
            beaten: called after every heartbeat.
            leaving: called before the run is given free.
            left: called afterwards.

        Raises:
            InputError: where a live process holds it, or the store refuses.
            StoreAway: where the store does not answer, or not quickly enough for claims.
        """
        self._bucket, self._run, self._stale, self._watching = bucket, run, stale, watching
        self._beaten, self._leaving, self._left = beaten, leaving, left
        self.owner = Owner.current()
        self.before: Claim | None = None
        self.attempt = self._claim()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), name="lease", daemon=True)
        self._thread.start()

    def _seen(self, bucket: Bucket) -> Claim | None:
        """The claim that has the newest attempt."""
        prefix = f"{self._run}/"
        entries = bucket.entries(f"{self._run}/{FOLDER}")
        seen = winners({key.removeprefix(prefix): entry for key, entry in entries.items()})
        return list(seen.values())[-1] if seen else None

    def _object(self, what: str) -> str:
        return f"{self._run}/{claim_key(self.attempt, self.owner.token, what)}"

    def _claim(self) -> int:
        for _ in range(_TRIES):
            self._refuse_live()
            self.attempt = self.before.number + 1 if self.before else 1
            began = time.monotonic()
            self._bucket.put(self._object("claim"), to_json(asdict(self.owner)))
            quick = time.monotonic() - began < SETTLING - RESOLUTION
            time.sleep(SETTLING)
            newest = self._seen(self._bucket)
            if quick and newest and (newest.number, newest.token) == (self.attempt, self.owner.token):
                self._bucket.put(self._object("beat"), b"")
                return self.attempt
            self._bucket.delete(self._object("claim"))
        raise StoreAway(
            f"The run '{self._bucket.name(self._run)}' could not be claimed in {_TRIES} tries: to write a claim took "
            f"longer than {SETTLING - RESOLUTION:g} s each time, or others were faster. Look at the network and the "
            "store, then run the same command again."
        )

    def _look(self) -> Attempt | None:
        """The attempt before this one, unless it is known to have ended."""
        self.before = claim = self._seen(self._bucket)
        if claim is None or claim.ended:
            return None
        return as_attempt(self._bucket, self._run, claim, self._bucket.now())

    def _refuse_live(self) -> None:
        attempt, held = at_work(self._look, self._stale, WATCH, self._watching)
        if held:
            raise Held(
                f"The run '{self._bucket.name(self._run)}' is in use: {attempt}. Wait until that process is done "
                "or stop it, then run the same command again; if it is gone, its claim ends "
                f"{self._stale:g} s after its last heartbeat."
            )

    def _beat(self, interval: float) -> None:
        with self._bucket.brief() as bucket:
            while not self._stop.wait(interval):
                # A store that is away comes back; a takeover is found by check().
                with contextlib.suppress(RtScaleError):
                    bucket.put(self._object("beat"), b"")
                    self._beaten()

    def held(self) -> None:
        """Make sure that the lease was not released (RunError); asks nothing of the store."""
        if self._stop.is_set():
            raise RunError(
                f"The lease of '{self._bucket.name(self._run)}' was released; acquire it again before writing there."
            )

    def check(self, bucket: Bucket | None = None) -> None:
        """Make sure that this process still owns the run; to be called before each write.

        Args:
            bucket: the store's objects, where another patience is wanted than usual.

        Raises:
            RunError: where another process has taken over, the run was removed, or the lease was released.
            StoreAway: where the store does not answer.
        """
        self.held()
        newest = self._seen(bucket or self._bucket)
        if newest is None or newest.number != self.attempt:
            # A later claim of this number is one that loses and is about to be taken back.
            now = f"attempt {newest.number} does" if newest else "it was removed"
            raise RunError(
                f"This process (attempt {self.attempt}) no longer owns the run '{self._bucket.name(self._run)}': "
                f"{now}. Nothing more is written by this one; what it saved before is kept and used."
            )

    def release(self) -> None:
        """Stop the heartbeat and give the run free."""
        if self._stop.is_set():
            return
        try:
            self._leaving()
        finally:
            self.abandon()
            with contextlib.suppress(RtScaleError), self._bucket.brief() as bucket:
                bucket.put(self._object("end"), b"")
            self._left()

    def abandon(self) -> None:
        """Stop the heartbeat, and leave no word of it: of a run that was removed."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> RemoteLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
