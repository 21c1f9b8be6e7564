"""Getting a prepared set from where it is kept for all machines: a folder, NFS, s3:// or gs://, once a node."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from rt_scale.data.build import check_target, move_into_place
from rt_scale.data.files import disk_full, lock, reading, writing
from rt_scale.data.prepared import META, TEST, TRAIN, Meta, Prepared, load, parse_meta
from rt_scale.spec.errors import InputError
from rt_scale.spec.stopping import Heed, go_on
from rt_scale.system.paths import user_path

_BLOCK = 1 << 24
"""Bytes a request: from an object store each costs a round trip."""
_FILES = (TRAIN, TEST)


def data_origin() -> str:
    """Where prepared data is kept for all machines (RT_SCALE_DATA_ORIGIN), or an empty string."""
    return os.environ.get("RT_SCALE_DATA_ORIGIN", "").strip()


def fetch(name: str, data_dir: Path, origin: str, heed: Heed = go_on) -> Prepared | None:
    """Copy a prepared set from ``origin`` into ``data_dir``, unless it is there; None where ``origin`` has none.

    Of several processes one copies and the others wait for it. The copy's SHA-256 is computed on the way and held
    against the recorded one, and the set moves into place when both files are right: it is whole or not there.

    Args:
        name: of the set.
        data_dir: where prepared sets lie on this machine.
        origin: a data folder like ``data_dir``, as a path or an address that pyarrow knows (file://, s3://, gs://).
        heed: called before every block, and while another process is waited for; what it raises leaves nothing behind.

    Raises:
        InputError: the origin cannot be read, what it has is damaged or of another version, or the disk is small.
        RunError: the disk filled up on the way. Nothing is left behind in either case.
    """
    with lock(name, data_dir, wait=True, heed=heed):
        if (there := load(name, data_dir)) is not None:
            return there
        advice = f"Check RT_SCALE_DATA_ORIGIN, and prepare '{name}' there again if it is damaged."
        with reading(f"{origin}/{name}", advice):
            store, root = _open_store(origin)
            folder = f"{root}/{name}"
            meta = _read_meta(store, folder)
        if meta is None:
            return None
        workplace = data_dir / f".{name}.tmp"
        check_target(data_dir / name)
        try:
            _copy_files(store, folder, meta, workplace, advice, heed)
            move_into_place(meta, workplace, data_dir / name)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
    return load(name, data_dir)


def _open_store(origin: str) -> tuple[Any, str]:
    """The file system of ``origin``, and its path there."""
    from pyarrow.fs import FileSystem, LocalFileSystem  # takes a moment to import, and only this needs it

    if "://" in origin:
        store, root = FileSystem.from_uri(origin)
        return store, root.rstrip("/")
    return LocalFileSystem(), str(user_path(origin, "RT_SCALE_DATA_ORIGIN").resolve())


def _read_meta(store: Any, folder: str) -> Meta | None:
    try:
        with store.open_input_stream(f"{folder}/{META}", compression=None) as stream:
            text = stream.read().decode()
    except FileNotFoundError:
        return None
    return parse_meta(text)


def _copy_files(store: Any, folder: str, meta: Meta, workplace: Path, advice: str, heed: Heed) -> None:
    with writing(workplace):
        shutil.rmtree(workplace, ignore_errors=True)  # a preparation or a copy that was killed
        workplace.mkdir()
        free = shutil.disk_usage(workplace).free
    with reading(folder, advice):
        sizes = [each.size or 0 for each in store.get_file_info([f"{folder}/{file}" for file in _FILES])]
    if free < sum(sizes):
        raise InputError(disk_full(workplace, f"{sum(sizes):,} bytes are needed, {free:,} are free"))
    for file in _FILES:
        actual = _copy(store, f"{folder}/{file}", workplace / file, advice, heed)
        if actual != meta.sha256[file]:
            raise InputError(
                f"'{folder}/{file}' is damaged: its contents have SHA-256 {actual}, written was "
                f"{meta.sha256[file]}. Nothing was kept. {advice}"
            )


def _copy(store: Any, source: str, target: Path, advice: str, heed: Heed) -> str:
    """Copy a file, on disk when this returns; the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with reading(source, advice):
        stream = store.open_input_stream(source, compression=None)
    with stream, writing(target), open(target, "wb") as out:
        while block := _read(stream, source, advice):
            heed()
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _read(stream: Any, source: str, advice: str) -> bytes:
    with reading(source, advice):
        content: bytes = stream.read(_BLOCK)
    return content
