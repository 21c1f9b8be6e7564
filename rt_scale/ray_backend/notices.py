"""What a cluster tells, or no longer tells: that a node is about to go, that the head is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray._private.state import state

from rt_scale.ray_backend.probe import knock

EVERY_S = 2.0
"""Between two looks at the head."""
LOST_S = 10.0
"""A head that has not answered for so long is lost."""


@contextmanager
def cluster_lost(address: str, then: Callable[[], None], *, after: float = LOST_S) -> Iterator[None]:
    """Watch the head of a cluster from a thread, and call ``then`` once where it is lost.

    Ray waits for a lost head for 60 s and then ends this process on the spot, with code 1 and no exception; until
    then its calls, those that leave it among them, may not return. So ``then`` should say what happened and end the
    process (``os._exit``).

    Args:
        address: the head's GCS, as ``Cluster.address``.
        then: called from the watching thread, at most once.
        after: seconds for which the head does not answer.
    """
    end = threading.Event()

    def watch() -> None:
        silent_since: float | None = None
        while not end.wait(min(EVERY_S, after / 5)):
            if knock(address, EVERY_S):
                silent_since = None
                continue
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since >= after and not end.is_set():
                then()
                return

    thread = threading.Thread(target=watch, name="rt-scale-head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()


def draining_nodes() -> dict[str, float]:
    """Nodes that are being drained or preempted, by Ray's id -> when they go, in seconds since 1970; 0: not said.

    From a driver or a worker: one question to the head, half a millisecond.
    """
    return {node: deadline / 1000 for node, deadline in state.get_draining_nodes().items()}
