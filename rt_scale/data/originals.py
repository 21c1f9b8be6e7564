"""Finding, and when asked fetching, the original files of the data sets known by name."""

from __future__ import annotations

import http.client
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rt_scale.data.catalogue import DataInfo, Download
from rt_scale.data.files import md5_of, writing
from rt_scale.data.places import ORIGINALS, prepare_command
from rt_scale.data.sources.cifar import holds_cifar
from rt_scale.data.sources.idx import holds_idx
from rt_scale.spec.errors import InputError

_TIMEOUT = 30.0
"""Seconds without an answer from the server."""
_BLOCK = 1 << 18

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


def find_original(info: DataInfo, data_dir: Path, download: bool, progress: Progress | None) -> Path:
    """The folder that holds the original of ``info``.

    Looked for where the Debian package puts it and in ``<data_dir>/originals/<name>``; with ``download`` what
    is missing there is fetched. Raises InputError saying which file to put where.
    """
    if info.package_folder and _holds(info, Path(info.package_folder)):
        return Path(info.package_folder)
    folder = data_dir / ORIGINALS / info.name
    if download:
        fetch(info, data_dir, progress)
    elif not _holds(info, folder):
        raise InputError(
            f"The original of '{info.name}' is not here, and nothing is downloaded unless asked. "
            f"{advice(info, data_dir)}"
        )
    return folder


def fetch(info: DataInfo, data_dir: Path, progress: Progress | None) -> None:
    """Download the files of ``info`` that are not there with the right checksum, each whole or not at all.

    ``progress`` is called with the bytes of the file so far and its size (0 where the server does not say).
    """
    folder = data_dir / ORIGINALS / info.name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for each in info.downloads:
        target = folder / each.file
        if not target.is_file() or md5_of(target) != each.md5:
            _fetch_file(each, target, progress, advice(info, data_dir))


def advice(info: DataInfo, data_dir: Path) -> str:
    """What to do when the original is not found: which file goes where, and what to type."""
    command = prepare_command(info.name, data_dir)
    files = ", ".join(each.file for each in info.downloads)
    where = info.downloads[0].url.rsplit("/", 1)[0]
    package = f"install the Debian package {info.package}; or " if info.package else ""
    return (
        f"To have it: {package}put {files} (from {where}) into '{data_dir / ORIGINALS / info.name}'; or say "
        f"where it is: {command} --from PATH; or let it be downloaded: {command} --download."
    )


def _holds(info: DataInfo, folder: Path) -> bool:
    return holds_idx(folder) if info.reader == "idx" else holds_cifar(info, folder)


def _fetch_file(each: Download, target: Path, progress: Progress | None, advice_text: str) -> None:
    partial = target.with_name(f".{target.name}.part")
    try:
        with writing(partial), open(partial, "wb") as out:
            _copy(each.url, out.write, progress, advice_text)
        if (actual := md5_of(partial)) != each.md5:
            raise InputError(
                f"Wrong checksum: what {each.url} sent has MD5 {actual}, expected is {each.md5}; nothing was "
                f"kept. Try again. {advice_text}"
            )
        with writing(target):
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(url: str, write: Callable[[bytes], int], progress: Progress | None, advice_text: str) -> None:
    """Pass the body at ``url`` to ``write``; only the network's errors become 'could not be downloaded'."""
    response = _guarded(lambda: urllib.request.urlopen(url, timeout=_TIMEOUT), url, advice_text)
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while block := _guarded(lambda: response.read(_BLOCK), url, advice_text):
            write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)


def _guarded(action: Callable[[], Result], url: str, advice_text: str) -> Result:
    try:
        return action()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} could not be downloaded ({error}). {advice_text}") from error
