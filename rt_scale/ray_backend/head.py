"""Whether the head of the connected cluster still answers: Ray waits for a lost one for a minute, or for ever.

Without a word, a driver waits for a head that hangs or was started anew at its address, and after the loss of its own
node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray._private.worker import global_worker

from rt_scale.ray_backend.probe import port_answers

LOOK = 2.0
"""Seconds between two looks, and for an answer."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a cluster, and what continues the work; it is lost after ``patience`` seconds of it."""

    what: str
    then: str
    patience: float


NEW = "Start a cluster again, and the same command continues from the last checkpoints."
SILENT = Trouble("its head does not answer", NEW, 10.0)
HANGS = Trouble("its head accepts connections but answers nothing", NEW, 45.0)
RESTARTED = Trouble("its head was started anew", "The same command continues on the new one.", 0.0)
LEFT = Trouble("this machine is no longer a node of it", "The same command continues on one of its nodes.", 0.0)


class Head:
    """The head at ``address``, ``host:port``, asked over a connection of its own."""

    def __init__(self, address: str) -> None:
        self._address, self._node = address, ray.NodeID.from_hex(ray.get_runtime_context().get_node_id())
        self._client = ray._raylet.GcsClient(address=address, cluster_id=global_worker.gcs_client.cluster_id.hex())

    def trouble(self) -> Trouble | None:
        """What is wrong, if anything; takes up to twice ``LOOK`` seconds."""
        if not port_answers(self._address, LOOK):
            return SILENT
        try:
            (ours,) = self._client.check_alive([self._node], timeout=LOOK)
        except ray.exceptions.AuthenticationError:  # another cluster's, by its identity or its token
            return RESTARTED
        except ray.exceptions.RayError:
            return HANGS
        return None if ours else LEFT


@contextmanager
def watch_head(trouble: Callable[[], Trouble | None], lost: Callable[[str, Trouble], None]) -> Iterator[None]:
    """Ask ``trouble()`` from a thread; call ``lost`` from it, once, with the trouble that lasted and its time of day.

    Calls of Ray, ``ray.shutdown`` included, may not return without a head. So ``lost`` should print what happened and
    end the process (``os._exit``). An error in the body is raised once the head is known to be there.
    """
    end = threading.Event()

    def watch() -> None:
        since: tuple[float, str] | None = None
        while not end.is_set():
            found = trouble()
            if found is None:
                since = None
            else:
                since = since or (time.monotonic(), time.strftime("%H:%M:%S"))
                if time.monotonic() - since[0] >= found.patience and not end.is_set():
                    lost(since[1], found)
                    return
            end.wait(LOOK if found is None else LOOK / 4)

    thread = threading.Thread(target=watch, name="rt-scale-head", daemon=True)
    thread.start()
    try:
        yield
    except Exception:
        while thread.is_alive() and trouble() is not None:
            thread.join(LOOK)
        raise
    finally:
        end.set()


def in_words(cluster: str, since: str, trouble: Trouble) -> str:
    """The message to the user: what was lost, how, since when, and what continues the work."""
    return f"{cluster} is lost: {trouble.what}, since {since}. What runs saved is kept. {trouble.then}"
