"""Paths given by users, files that come with rt-scale, and cache folders."""

from __future__ import annotations

import functools
import itertools
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from rt_scale.spec.errors import InputError
from rt_scale.system.console import say

PACKAGE = Path(__file__).parents[1]
SWEEPS = PACKAGE / "sweeps"
BOOTSTRAP = PACKAGE.parent / "cluster" / "bootstrap.sh"
"""Exists only in a checkout."""


def bundled_sweep(name: str) -> Path:
    """The path of a sweep file of the package, e.g. ``demo`` or ``small/fig3``."""
    return SWEEPS / f"{name}.yaml"


def bundled_sweeps() -> dict[str, str]:
    """The sweep files of the package by name: the first sentence of their comments, on one line."""
    found = {}
    for path in sorted(SWEEPS.glob("**/*.yaml")):
        lines = itertools.takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
        text = " ".join(line.removeprefix("# ") for line in lines)
        sentence = re.split(r"(?<=[.?]) ", text.removeprefix("Claim: "))[0].rstrip(".")
        found[path.relative_to(SWEEPS).with_suffix("").as_posix()] = sentence[0].upper() + sentence[1:]
    return found


def install_command(package: str) -> str:
    """The command that installs an optional package: bootstrap.sh in a checkout, else pip."""
    return "bash cluster/bootstrap.sh" if BOOTSTRAP.is_file() else f"pip install '{package}'"


CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TRITON_CACHE_DIR": "triton",
}
"""Environment variable of a library's cache -> folder that it gets if the home directory is not writable."""


def user_path(text: str, what: str = "The path") -> Path:
    """The path for a user's ``text``, with ``~`` and ``~NAME`` expanded; ``what`` names it in errors.

    Raises:
        InputError: it is empty, an address, not UTF-8, or begins with the home of an unknown user.
    """
    if not text.strip():
        raise InputError(f"{what} is empty. Name a file or folder; '.' is the current one.")
    if "://" in text:
        raise InputError(f"{what} is '{text}', an address; it must be a path on this machine, e.g. '/scratch/data'.")
    path = _expanded(Path(text), what) if text.startswith("~") else Path(text)
    if str(path).startswith("~"):  # './~x', or an existing file: never to be expanded later
        path = path.absolute()
    try:
        os.fspath(path.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{what} is '{path.absolute()}', which is not UTF-8 text. Rename it; or, where it is only the locale that "
            "is not UTF-8, set PYTHONUTF8=1."
        ) from None
    return path


def path_from(variable: str) -> Path | None:
    """The path in an environment variable (errors as of :func:`user_path`); None if it is unset or blank."""
    given = os.environ.get(variable, "")
    return user_path(given, variable) if given.strip() else None


def cache_folder(name: str, remedy: str, *, may_hold: bool = False) -> Path:
    """The folder ``name`` below XDG_CACHE_HOME, else below ``~/.cache``.

    If ``~/.cache`` is not writable, it is in :func:`own_temporary`, with one warning on standard error.
    ``remedy`` is the option or variable that the warning recommends; ``may_hold`` also accepts an existing
    folder that is only readable.

    Raises:
        InputError: the temporary directory cannot be used either.
    """
    if given := path_from("XDG_CACHE_HOME"):
        return given.absolute() / name
    home = _home()
    if home is not None and not _is_temporary(home):
        folder = home / ".cache" / name
        if can_write(folder) or (may_hold and os.path.isdir(folder) and os.access(folder, os.R_OK | os.X_OK)):
            return folder
    folder = own_temporary() / name
    _say_once(
        f"rt-scale: There is no home directory whose .cache can be written, so '{folder}' is used, which may not last. "
        f"Name another place with {remedy}, or one for all caches with XDG_CACHE_HOME."
    )
    return folder


def settle_home() -> None:
    """If the home directory is not writable, point libraries' caches and HOME elsewhere, for child processes too.

    Variables that the user has set keep their values.
    """
    home = _home()
    if home is not None and can_write(home / ".cache"):
        return
    with suppress(InputError):  # reported by cache_folder, once a folder is needed
        if home is None or not os.path.isdir(home):
            home = own_temporary()
            os.environ["HOME"] = str(home)
        place = (path_from("XDG_CACHE_HOME") or own_temporary()).absolute()
        for variable, folder in CACHES.items():
            os.environ.setdefault(variable, str(place / folder))
        token = home / ".ray" / "auth_token"
        if not os.access(token, os.R_OK) and not can_write(token):
            os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(place / "ray" / token.name))


def own_temporary() -> Path:
    """A folder in the temporary directory that only this user can access; created if absent.

    Raises:
        InputError: it cannot be created, or another user owns it.
    """
    remedy = "Set XDG_CACHE_HOME, or HOME, to a folder of yours that can be written."
    try:
        folder = _temporary_name()
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise InputError(f"There is no home directory, and '{folder}' is not a folder of this user. {remedy}")
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"There is no home directory, and no folder can be made in the temporary one ({error}). {remedy}"
        ) from error
    return folder


def _expanded(path: Path, what: str) -> Path:
    _home()  # unsets an empty HOME
    try:
        return path.expanduser()
    except RuntimeError:
        who = path.parts[0].removeprefix("~")
        if who and os.path.lexists(path):
            return path
        why = f"there is no user '{who}'" if who else "there is no home directory (HOME is not set)"
        raise InputError(
            f"{what} is '{path}', but {why}. Write the path in full, or './{path}' for that name."
        ) from None


def _home() -> Path | None:
    """The home directory, which may not exist; None if neither HOME nor the system names one."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty one would be taken for the root directory
    try:
        return Path.home().absolute()
    except RuntimeError:
        return None


def _temporary_name() -> Path:
    return Path(tempfile.gettempdir()).absolute() / f"rt-scale-{os.geteuid()}"


def _is_temporary(home: Path) -> bool:
    """Whether :func:`settle_home` set that home, in this process or in its parent."""
    with suppress(OSError):  # no temporary directory can be written
        return home == _temporary_name()
    return False


def can_write(folder: Path) -> bool:
    """Whether this process may create and write files in ``folder``, which need not exist."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(parent))
    effective = os.access in os.supports_effective_ids  # os.access asks for the real user else
    return os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK, effective_ids=effective)


@functools.cache
def _say_once(text: str) -> None:
    say(text, error=True)
