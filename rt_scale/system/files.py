"""Files that are either wholly there or not there at all; OSErrors are left to those who know what the file is for."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path

TEMPORARY = ".tmp-"
"""Prefix of files and folders that are being written; what a killed process leaves has it too."""
FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
"""Numbers of the OSErrors that say that there is no room."""


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other process uses, recognisable as unfinished."""
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file, on disk when this returns; FileExistsError where there is one."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``: readers see the old contents or the new, never a part. Raises OSError."""
    temporary = temporary_name(path)
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        remove(temporary)
        raise


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
