"""The folder in which a Ray of our own keeps its sockets and logs, looked at before Ray is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rt_scale.spec.errors import InputError

LONGEST = 107
"""Bytes of a socket's path, as Linux has it."""
SOCKET = "session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""The longest that Ray adds."""


def check_ray_folder() -> None:
    """Refuse a folder that Ray cannot use, naming the variable that says so (InputError)."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), None)
    given = os.environ[variable] if variable else "/tmp"
    said = f"{variable} is '{given}', where" if variable else "Where no RAY_TMPDIR is set,"
    what = f"{said} Ray keeps its sockets and logs{'' if variable else ' in /tmp'}"
    remedy = "Set RAY_TMPDIR to a folder of your own with a short name, e.g. RAY_TMPDIR=/tmp or RAY_TMPDIR=$HOME."
    if not os.path.isabs(given):
        raise InputError(f"{what}: it must be an absolute path. Unset it, or give one. {remedy}")
    folder = Path(given) / "ray"
    length = len(os.fsencode(folder / SOCKET.format(pid=os.getpid())))
    if length > LONGEST:
        raise InputError(
            f"{what}: the name of a socket there would have {length} bytes, and the system takes {LONGEST}. {remedy}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{what}: '{folder}' cannot be written ({error.strerror}). {remedy}") from error
