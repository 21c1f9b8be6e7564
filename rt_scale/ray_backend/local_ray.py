"""Tokens, and a local Ray whose processes listen on this machine only."""

from __future__ import annotations

import os
import secrets
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType

import ray
from ray._private import ray_constants
from ray._private import utils as ray_utils

from rt_scale.spec.errors import InputError, shown
from rt_scale.system.paths import user_path

MODE = "RAY_AUTH_MODE"
"""Ray's variable: "token" or "disabled"."""


def check_ray_folder() -> None:
    """Refuse a relative folder for Ray's sockets and logs, which Ray would wait for (InputError)."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)  # in Ray's own order
    if name is not None and not os.path.isabs(os.environ[name]):
        raise InputError(
            f"{name} is {shown(os.environ[name])}, where Ray keeps its sockets and logs: it must be an absolute path. "
            "Unset it, or set RAY_TMPDIR to a folder of your own with a short name, e.g. RAY_TMPDIR=$HOME."
        )


def use_token(local: bool) -> None:
    """Use token authentication for a local Ray, and for a cluster if its token is here; not if the user turned it off.

    InputError: RAY_AUTH_MODE demands a token for a cluster, and there is none.
    """
    if os.environ.get(MODE, "token").lower() != "token":
        return
    if local:
        own_token()
    elif not known_token():
        if MODE in os.environ:
            raise InputError(
                f"RAY_AUTH_MODE is token, but there is no token in {token_file()}. Copy the one of the cluster's head "
                "there with mode 0600, or name its file in RAY_AUTH_TOKEN_PATH."
            )
        return
    os.environ[MODE] = "token"  # given an address, Ray itself would not set it
    # Ray is already imported, and reads mode and token again.
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def token_file() -> Path:
    """Where Ray looks for its authentication token."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else user_path("~/.ray/auth_token", "Ray's token file")


def own_token() -> None:
    """Create a token for a local Ray if there is none, readable only by its owner; Ray's own would be world-readable.

    Raises:
        InputError: if it cannot be restricted to its owner, is empty, or cannot be written.
    """
    path = token_file()
    try:
        if not known_token():
            _create_token(path)
            keep_to_owner(path)
    except OSError as error:
        raise InputError(
            f"Ray's token cannot be written to {path} ({error.strerror}). "
            "Name a file that can be in RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_MODE=disabled."
        ) from error


def known_token() -> bool:
    """Whether there is a token; a token file is restricted to its owner (InputError if it cannot be)."""
    if os.environ.get("RAY_AUTH_TOKEN"):  # the token itself, which Ray prefers to any file
        return True
    path = token_file()
    if not path.exists():
        return False
    keep_to_owner(path)
    return True


def keep_to_owner(path: Path) -> None:
    """Remove the rights of others from the token file, or refuse it (InputError)."""
    try:
        found = path.stat()
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(stat.S_IMODE(found.st_mode) & stat.S_IRWXU)
        empty = not path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise InputError(
            f"Ray's token file {path} is not for its owner alone, and cannot be made so or read ({reason}). "
            "Copy it to a file of your own with mode 0600 and name that in RAY_AUTH_TOKEN_PATH."
        ) from error
    if empty:
        raise InputError(f"Ray's token file {path} is empty. Remove it, and a new one is written.")


def _create_token(path: Path) -> None:
    """Write a new token atomically: of two concurrent processes, both use the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".auth_token-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


@contextmanager
def adapted_start(local: bool) -> Iterator[None]:
    """Change how ``ray.init`` starts and joins a Ray.

    Ray would replace our SIGTERM handler, which asks runs for a checkpoint. Its C++ part does so all the same, and
    aborts the process 3 s after the signal; so the handler is installed again. If ``local``, Ray's processes and gloo
    listen only on 127.0.0.1 (Ray uses the machine's outward address whatever it is given), and each has its own
    process group: a closing terminal, `timeout` and `kill %1` signal the driver's group, and only the driver may
    receive that. Where all processes get SIGTERM at once, as in a step of Slurm, only the driver heeds it: it needs
    the others until the runs have written their checkpoints. They are ended by SIGKILL.
    """
    end_with_parent = ray_utils.set_kill_on_parent_death_linux  # each new process calls it first

    def own_group() -> None:
        os.setpgrp()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        end_with_parent()

    with ExitStack() as stack:
        stack.enter_context(_replaced(ray_utils, "set_sigterm_handler", lambda handler: None))
        if local:
            stack.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
            stack.enter_context(_replaced(ray_utils, "set_kill_on_parent_death_linux", own_group))
            if "GLOO_SOCKET_IFNAME" not in os.environ and os.path.isdir("/sys/class/net/lo"):
                os.environ["GLOO_SOCKET_IFNAME"] = "lo"
                stack.callback(os.environ.pop, "GLOO_SOCKET_IFNAME", None)
        yield
        if local and (node := ray._private.worker._global_node) is not None:
            end = node.kill_all_processes
            node.kill_all_processes = lambda **_: end(check_alive=False)
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
