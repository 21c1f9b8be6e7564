"""The token that Ray's processes show one another: a file that its owner alone can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from rt_scale.spec.errors import InputError
from rt_scale.system.paths import user_path

MODE = "RAY_AUTH_MODE"
"""Ray's variable: "token" or "disabled"; what a user has set stands."""


def token_file() -> Path:
    """Where Ray looks for the token."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else user_path("~/.ray/auth_token", "Ray's token file")


def given_as_text() -> bool:
    """Whether RAY_AUTH_TOKEN holds the token itself, which Ray then takes before any file."""
    return bool(os.environ.get("RAY_AUTH_TOKEN"))


def own_token() -> None:
    """Make sure that there is a token, for a Ray of our own, and that nobody else can read it.

    Ray itself would write the file for everyone to read.

    Raises:
        InputError: where it cannot be kept to its owner, is empty, or cannot be written.
    """
    if given_as_text():
        return
    path = token_file()
    try:
        if not path.exists():
            _create(path)
    except OSError as error:
        raise InputError(
            f"Ray's token cannot be written to {path} ({error.strerror}). "
            "Name a file that can be in RAY_AUTH_TOKEN_PATH, or set RAY_AUTH_MODE=disabled."
        ) from error
    keep_to_owner(path)


def known_token() -> bool:
    """Whether there is a token to show a cluster; where it is a file, it is kept to its owner (InputError if not)."""
    if given_as_text():
        return True
    path = token_file()
    if not path.exists():
        return False
    keep_to_owner(path)
    return True


def keep_to_owner(path: Path) -> None:
    """Take the rights of all others from the token file, or refuse it (InputError)."""
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


def _create(path: Path) -> None:
    """Write a new token at once and whole: of two processes that do, both go on with the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".auth_token-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
