"""Atomic and exclusive writes, and disk errors explained."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rt_scale.spec.errors import InputError, RunError, StoreUnavailable
from rt_scale.system.files import FULL, TEMPORARY, remove, replace_file, sync_folder, temporary_name, write_synced

_NOT_A_FOLDER = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, *_NOT_A_FOLDER}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the body, which works on ``path``, into one that says what to do.

    Raises:
        InputError: ``path`` cannot be written (permission, read-only, not a folder).
        RunError: the disk is full; its subclass StoreUnavailable: the disk fails.
    """
    try:
        yield
    except OSError as error:
        raise _explained(error, path) from error


def full_disk(path: Path) -> RunError:
    """The error for a disk that has no room for ``path``."""
    return RunError(
        f"The disk is full: '{path}' could not be written, {free_bytes(path) / 1e6:.1f} MB free there. "
        "What was written before is kept. Make room, or choose a store on another disk with --store or "
        "RT_SCALE_STORE, and run the same command again."
    )


def _explained(error: OSError, path: Path) -> InputError | RunError:
    if error.errno in FULL:
        return full_disk(path)
    if error.errno in _REFUSED:
        return InputError(
            f"'{path}' cannot be written: {os.strerror(error.errno or 0)}. Give yourself write permission "
            "there, or choose another store with --store or RT_SCALE_STORE."
        )
    return StoreUnavailable(f"'{path}' could not be written: {error}. Check that disk, then run the command again.")


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of ``path``, which need not exist."""
    folder = next(folder for folder in path.absolute().parents if folder.is_dir())
    return shutil.disk_usage(folder).free


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically and create its folder; raises as :func:`disk_errors`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces ``path`` when the body ends; raises as :func:`disk_errors`.

    Removes the temporary files of killed processes first: no process holds their locks.
    """
    temporary = temporary_name(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for unfinished in path.parent.glob(f"{TEMPORARY}{glob.escape(path.name)}-*"):
            _remove_unlocked(unfinished)
        with open(temporary, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                remove(temporary)
                raise
        sync_folder(path.parent)


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)


def write_if_changed(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` unless the file already holds it."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def link_relatively(source: Path, link: Path) -> None:
    """Make ``link`` a relative link to ``source``, so that the store can be moved; without ``source``, remove it."""
    if not source.exists():
        remove(link)
        return
    target = os.path.relpath(source.resolve(), link.parent.resolve())
    if link.is_symlink() and os.readlink(link) == target:
        return
    temporary = temporary_name(link)
    with disk_errors(link):
        os.symlink(target, temporary)
        os.replace(temporary, link)


def create_exclusive(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` and return True; False if it exists. Exactly one of several processes succeeds.

    Raises as :func:`disk_errors`.
    """
    temporary = temporary_name(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_synced(temporary, data)
            _link(temporary, path, data)
        except FileExistsError:
            return False
        finally:
            remove(temporary)
        sync_folder(path.parent)
    return True


def _link(temporary: Path, path: Path, data: bytes) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        # exFAT and most FUSE file systems have no hard links. There, a reader may briefly find the file empty.
        if error.errno not in _NO_LINKS:
            raise
        write_synced(path, data)


def to_json(value: object) -> bytes:
    """``value`` as indented UTF-8 JSON with a final newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as JSON with :func:`write_bytes`."""
    write_bytes(path, to_json(value))


def read_json(path: Path) -> Any:
    """The value in the JSON file ``path``.

    Raises:
        FileNotFoundError: it does not exist.
        RunError: it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RunError(
            f"'{path}' cannot be read as JSON ({error}). rt-scale writes it atomically, so it was edited "
            "or the disk is damaged. Restore a copy, or remove its folder to compute that run again."
        ) from error


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes from ``folder``; only the holder of the lease may do this."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(TEMPORARY):
                remove(path)


def remove_whole(path: Path) -> None:
    """Remove a file or folder if it exists; a folder is renamed first, so that a kill leaves nothing incomplete."""
    if path.exists() and not path.name.startswith(TEMPORARY):
        temporary = temporary_name(path)
        with disk_errors(path):
            os.rename(path, temporary)
        path = temporary
    remove(path)


def measure(path: Path) -> tuple[int, float]:
    """Bytes under ``path``, and when its newest file changed, in seconds since 1970; does not follow links."""
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    size, changed = 0, 0.0
    for file in files or [path]:
        try:
            found = file.lstat()
        except FileNotFoundError:  # removed by a running process
            continue
        size += found.st_size if not file.is_dir() else 0
        changed = max(changed, found.st_mtime)
    return size, changed


def names_in(folder: Path | str) -> list[str]:
    """Sorted names in ``folder``; empty if there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
