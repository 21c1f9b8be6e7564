"""An object store that fails for a while is asked again; what it refuses, it is not."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.spec.run import stream

T = TypeVar("T")
PATIENCE = 120.0
"""Seconds for which an operation is tried again before it counts as failed."""
BRIEF = 10.0
"""The same where nobody wants to wait: while a process ends, and for a heartbeat."""
_FIRST, _LONGEST = 0.2, 10.0
"""Seconds between the first two tries, doubled from one to the next, and the most between any two."""
_NOBODY_THERE = ("NO_SUCH_BUCKET", "InvalidBucketName", "bucket does not exist", "Bucket not found")
_DENIED = (
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "InvalidToken",
    "ExpiredToken", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED", "UNAUTHENTICATED",
)  # fmt: skip


class Retries:
    """How operations on a store are tried again: with exponential pauses, drawn so that processes do not meet.

    Attributes:
        address: of the store.
        bucket: its bucket.
        patience: seconds for which an operation is tried again.
    """

    def __init__(self, address: str, bucket: str, patience: float) -> None:
        self.address, self.bucket, self.patience = address, bucket, patience
        self._away = False
        self._random = random.Random(stream("store.backoff", int(secrets.token_hex(8), 16)))

    def name(self, key: str) -> str:
        """The object ``key`` as it is named in messages."""
        head, mark, query = self.address.partition("?")
        return f"{head}/{key}{mark}{query}"

    def tried(self, what: str, key: str, operation: Callable[[], T]) -> T:
        """What the operation returns, however often it takes; FileNotFoundError is passed on.

        Args:
            what: it does, as a verb.
            key: to which object.
            operation: may be called again and again.

        Raises:
            InputError: the store refuses, or there is no such bucket.
            StoreAway: it does not answer.
        """
        # Once it was waited for in vain, the next ones do not each wait as long again.
        patience = min(BRIEF, self.patience) if self._away else self.patience
        deadline, wait = time.monotonic() + patience, _FIRST
        while True:
            try:
                value = operation()
                self._away = False
                return value
            except FileNotFoundError:
                raise
            except OSError as error:
                self._refuse(what, key, error)
                pause = wait * self._random.uniform(0.5, 1.5)
                if time.monotonic() + pause > deadline:
                    self._away = True
                    raise self._gave_up(what, key, patience, error) from error
            time.sleep(pause)
            wait = min(2 * wait, _LONGEST)

    def _refuse(self, what: str, key: str, error: OSError) -> None:
        """What will not pass by itself is not tried again."""
        text = str(error)
        if any(word in text for word in _NOBODY_THERE):
            raise self.no_bucket() from error
        if isinstance(error, PermissionError) or any(word in text for word in _DENIED):
            raise InputError(
                f"The store refuses to {what} '{self.name(key)}' ({in_a_line(error)}). Check the credentials in the "
                "environment, and that they may list, read, write and delete objects in bucket "
                f"'{self.bucket}'."
            ) from error

    def no_bucket(self) -> InputError:
        """The error for a bucket that is not there."""
        return InputError(
            f"There is no bucket '{self.bucket}' for the store '{self.address}'. Make it, or check its name, its "
            "region and the endpoint; rt-scale makes no buckets."
        )

    def _gave_up(self, what: str, key: str, patience: float, error: OSError) -> StoreAway:
        return StoreAway(
            f"The store did not {what} '{self.name(key)}' within {patience:g} s ({in_a_line(error)}). Nothing "
            "that was computed is lost: it lies in this machine's mirror of the store, and the same command, on this "
            "machine, goes on from there. Check the network and the endpoint first."
        )


def in_a_line(error: Exception) -> str:
    """What the error says, on one line and not at length."""
    return " ".join(str(error).split())[:300]
