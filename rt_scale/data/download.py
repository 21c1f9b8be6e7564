"""Downloads of originals from their publishers, and copies of prepared sets from RT_SCALE_DATA_ORIGIN."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rt_scale.data.catalogue import DATASETS, prepare_command
from rt_scale.data.datasets.base import DataSet
from rt_scale.data.files import blocks, check_room, md5_of, reading, writing
from rt_scale.data.meta import META, ORIGINALS, TEST, TRAIN, Meta, parse_meta
from rt_scale.data.prepared import Prepared, check_target, load, lock, move_into_place, workplace
from rt_scale.spec.errors import InputError
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.system.paths import user_path

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

Progress = Callable[[int, int], None]
"""Called with the amount done and the total."""
_TIMEOUT = 30.0
"""Seconds to wait for an answer from the server."""
_DOWNLOAD_BLOCK = 1 << 18
_FETCH_BLOCK = 1 << 24
"""Bytes a request; each costs a round trip to an object store."""


def find_original(data: DataSet, data_dir: Path, download: bool, progress: Progress | None) -> Path:
    """The folder that holds the original of ``data``; InputError with advice if it is not found.

    Searches the folder of the Debian package, ``<data_dir>/originals/<name>``, and the folders there of sets with the
    same files. With ``download`` missing files are fetched; ``progress`` gets bytes, a total of 0 if it is unknown.
    """
    if data.package_folder and data.locate(Path(data.package_folder)):
        return Path(data.package_folder)
    own = data_dir / ORIGINALS / data.name
    shared = [data_dir / ORIGINALS / each.name for each in DATASETS.values() if each.downloads == data.downloads]
    folder = next((folder for folder in (own, *shared) if data.locate(folder)), own)
    advice = _advice(data, data_dir)
    if download:
        _download(data, folder, progress, advice)
    elif not data.locate(folder):
        raise InputError(f"The original of '{data.name}' is not here, and nothing is downloaded unless asked. {advice}")
    return folder


def _advice(data: DataSet, data_dir: Path) -> str:
    command = prepare_command(data.name, data_dir)
    files = ", ".join(each.file for each in data.downloads)
    where = data.downloads[0].url.rsplit("/", 1)[0]
    package = f"install the Debian package {data.package}; or " if data.package else ""
    return (
        f"To have it: {package}put {files} (from {where}) into '{data_dir / ORIGINALS / data.name}'; or say "
        f"where it is: {command} --from PATH; or let it be downloaded: {command} --download."
    )


def _download(data: DataSet, folder: Path, progress: Progress | None, advice: str) -> None:
    """Fetch the files that ``folder`` lacks or has with a wrong checksum, each atomically.

    If the publisher states no checksum, the one that the server announces is used.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for each in data.downloads:
        target = folder / each.file
        if target.is_file() and (not each.md5 or md5_of(target) == each.md5):
            continue
        partial = target.with_name(f".{target.name}.part")
        try:
            with writing(partial), open(partial, "wb") as out:
                announced = _download_file(each.url, out, progress, advice)
            expected = each.md5 or announced
            if expected and (actual := md5_of(partial)) != expected:
                raise InputError(
                    f"Wrong checksum: what {each.url} sent has MD5 {actual}, expected is {expected}; nothing was "
                    f"kept. Try again. {advice}"
                )
            with writing(target):
                os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def _download_file(url: str, out: BinaryIO, progress: Progress | None, advice: str) -> str:
    """Write the body at ``url`` to ``out``; the MD5 that the server announces, or an empty string."""
    with reading(url, advice):
        response = urllib.request.urlopen(url, timeout=_TIMEOUT)
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        check_room(Path(out.name), total)
        done = 0
        for block in blocks(response, url, advice, _DOWNLOAD_BLOCK):
            out.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        if done < total:
            raise InputError(f"Cannot read '{url}': it ended after {done:,} of {total:,} bytes. Try again. {advice}")
        return _announced_md5(response.headers)


def _announced_md5(headers: Message) -> str:
    """The hexadecimal MD5 in Google Cloud Storage's header ``x-goog-hash: crc32c=...,md5=<base64>``, or ''."""
    found = re.search(r"md5=([A-Za-z0-9+/]{22}==)", ",".join(headers.get_all("x-goog-hash", [])))
    return base64.b64decode(found[1]).hex() if found else ""


def data_origin() -> str:
    """The shared folder or address of prepared data (RT_SCALE_DATA_ORIGIN), or an empty string."""
    return os.environ.get("RT_SCALE_DATA_ORIGIN", "").strip()


def fetch(name: str, data_dir: Path, origin: str, check_stop: StopCheck = no_check) -> Prepared | None:
    """Copy a prepared set from ``origin`` into ``data_dir`` unless it is there; None if ``origin`` does not have it.

    Of several processes one copies and the others wait. The copy is atomic, and its SHA-256 is verified.

    Args:
        origin: another data folder: a path, or an address that pyarrow supports (file://, s3://, gs://).
        check_stop: called before every block and while waiting for another process; may raise.

    Raises:
        InputError: the origin is unreadable, damaged or of another version, or the disk is too small.
        RunError: the disk filled up.
    """
    with lock(name, data_dir, wait=True, check_stop=check_stop):
        if (there := load(name, data_dir)) is not None:
            return there
        advice = f"Check RT_SCALE_DATA_ORIGIN, and prepare '{name}' there again if it is damaged."
        with reading(f"{origin}/{name}", advice):
            store, root = open_origin(origin)
            folder = f"{root}/{name}"
            meta = _read_meta(store, folder)
        if meta is None:
            return None
        check_target(data_dir / name)
        with workplace(data_dir / name) as place:
            _copy_files(store, folder, meta, place, advice, check_stop)
            move_into_place(meta, place, data_dir / name)
    return load(name, data_dir)


def open_origin(origin: str) -> tuple[FileSystem, str]:
    """The file system of ``origin``, and its path there."""
    from pyarrow.fs import FileSystem  # takes a moment to import, and only this needs it

    address = origin if "://" in origin else str(user_path(origin, "RT_SCALE_DATA_ORIGIN").resolve())
    store, root = FileSystem.from_uri(address)
    return store, root.rstrip("/")


def _read_meta(store: FileSystem, folder: str) -> Meta | None:
    try:
        with store.open_input_stream(f"{folder}/{META}", compression=None) as stream:
            return parse_meta(stream.read().decode())
    except FileNotFoundError:
        return None


def _copy_files(store: FileSystem, folder: str, meta: Meta, place: Path, advice: str, check_stop: StopCheck) -> None:
    sources = {file: f"{folder}/{file}" for file in (TRAIN, TEST)}
    with reading(folder, advice):
        size = sum(each.size or 0 for each in store.get_file_info([*sources.values()]))
    check_room(place, size)
    for file, source in sources.items():
        actual = _copy(store, source, place / file, advice, check_stop)
        if actual != meta.sha256[file]:
            raise InputError(
                f"'{source}' is damaged: its contents have SHA-256 {actual}, written was {meta.sha256[file]}. Nothing "
                f"was kept. {advice}"
            )


def _copy(store: FileSystem, source: str, target: Path, advice: str, check_stop: StopCheck) -> str:
    """Copy and fsync a file; the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with reading(source, advice):
        stream = store.open_input_stream(source, compression=None)
    with stream, writing(target), open(target, "wb") as out:
        for block in blocks(stream, source, advice, _FETCH_BLOCK):
            check_stop()
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()
