"""The processes of a Ray of our own: listening on this machine alone, and apart from what is signalled to the driver.

What has ``local`` does nothing where that is False, as a cluster's processes are not ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants
from ray._private import utils as ray_utils


@contextmanager
def loopback(local: bool) -> Iterator[None]:
    """Let a Ray of our own listen on 127.0.0.1 alone, and its workers' gloo too.

    Ray does so by itself on systems where it makes no clusters; elsewhere it takes the machine's outward address,
    whatever node address it is given.
    """
    before, interface = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get("GLOO_SOCKET_IFNAME")
    if local:
        ray_constants.ENABLE_RAY_CLUSTER = False
        if interface is None and os.path.isdir("/sys/class/net/lo"):
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if interface is None:
            os.environ.pop("GLOO_SOCKET_IFNAME", None)


@contextmanager
def apart(local: bool) -> Iterator[None]:
    """Start each process of a Ray of our own in a process group of its own.

    A terminal that closes, `timeout` and `kill %1` signal the driver's group: it alone is to hear of that, and to tell
    the runs. Where the driver's process ends, theirs do still.
    """
    bound = ray_utils.set_kill_on_parent_death_linux  # what each new process calls first

    def bound_and_apart() -> None:
        os.setpgrp()
        bound()

    if local:
        ray_utils.set_kill_on_parent_death_linux = bound_and_apart
    try:
        yield
    finally:
        ray_utils.set_kill_on_parent_death_linux = bound


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Keep Ray from putting its own handler of SIGTERM in place of ours, which asks runs for a checkpoint."""
    theirs = ray_utils.set_sigterm_handler
    ray_utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = theirs
