"""Finding, and when asked fetching, the original files of the data sets known by name."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import os
import shutil
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import BinaryIO, TypeVar

from rt_scale.data.catalogue import DATASETS, DataInfo, Download
from rt_scale.data.datasets.cifar import holds_cifar
from rt_scale.data.datasets.cifar5m import holds_npz
from rt_scale.data.datasets.grey import holds_idx
from rt_scale.data.datasets.stl10 import holds_stl10
from rt_scale.data.datasets.tiny_imagenet import holds_tiny_imagenet
from rt_scale.data.files import disk_full, md5_of, writing
from rt_scale.data.places import ORIGINALS, prepare_command
from rt_scale.spec.errors import InputError

_TIMEOUT = 30.0
"""Seconds without an answer from the server."""
_BLOCK = 1 << 18

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


def find_original(info: DataInfo, data_dir: Path, download: bool, progress: Progress | None) -> Path:
    """The folder that holds the original of ``info``.

    Looked for where the Debian package puts it, in ``<data_dir>/originals/<name>`` and in the folders there of sets
    that come in the same files; with ``download`` what is missing there is fetched. Raises InputError saying which
    file to put where.
    """
    if info.package_folder and _holds(info, Path(info.package_folder)):
        return Path(info.package_folder)
    folder = _folder(info, data_dir)
    if download:
        fetch(info, data_dir, progress)
    elif not _holds(info, folder):
        raise InputError(
            f"The original of '{info.name}' is not here, and nothing is downloaded unless asked. "
            f"{advice(info, data_dir)}"
        )
    return folder


def _folder(info: DataInfo, data_dir: Path) -> Path:
    """Where the original lies, or is to lie: in a folder of its own, unless a set of the same files has it."""
    own = data_dir / ORIGINALS / info.name
    shared = [data_dir / ORIGINALS / each.name for each in DATASETS.values() if each.downloads == info.downloads]
    return next((folder for folder in (own, *shared) if _holds(info, folder)), own)


def fetch(info: DataInfo, data_dir: Path, progress: Progress | None) -> None:
    """Download the files of ``info`` that are not there with the right checksum, each whole or not at all.

    Where the publisher states no checksum, the one that the server announces counts.

    ``progress`` is called with the bytes of the file so far and its size (0 where the server does not say).
    """
    folder = _folder(info, data_dir)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for each in info.downloads:
        target = folder / each.file
        if not target.is_file() or (each.md5 and md5_of(target) != each.md5):
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
    if info.reader == "cifar":
        return holds_cifar(info, folder)
    if info.reader == "npz":
        return holds_npz(info, folder)
    if info.reader == "stl10":
        return holds_stl10(folder, "train" if info.labelled else "unlabeled")
    return holds_idx(folder) if info.reader == "idx" else holds_tiny_imagenet(folder)


def _fetch_file(each: Download, target: Path, progress: Progress | None, advice_text: str) -> None:
    partial = target.with_name(f".{target.name}.part")
    try:
        with writing(partial), open(partial, "wb") as out:
            announced = _copy(each.url, out, progress, advice_text)
        expected = each.md5 or announced
        if expected and (actual := md5_of(partial)) != expected:
            raise InputError(
                f"Wrong checksum: what {each.url} sent has MD5 {actual}, expected is {expected}; nothing was "
                f"kept. Try again. {advice_text}"
            )
        with writing(target):
            os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _copy(url: str, out: BinaryIO, progress: Progress | None, advice_text: str) -> str:
    """Write the body at ``url`` to ``out``; the MD5 that the server announces for it, or an empty string.

    Only the network's errors become 'could not be downloaded'.
    """
    response = _guarded(lambda: urllib.request.urlopen(url, timeout=_TIMEOUT), url, advice_text)
    with response:
        total = int(response.headers.get("Content-Length") or 0)
        free = shutil.disk_usage(Path(out.name).parent).free
        if free < total:
            raise InputError(disk_full(Path(out.name), f"{total:,} bytes are needed, {free:,} are free"))
        done = 0
        while block := _guarded(lambda: response.read(_BLOCK), url, advice_text):
            out.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        if done < total:
            raise InputError(
                f"{url} could not be downloaded (it ended after {done:,} of {total:,} bytes). Try again. {advice_text}"
            )
        return _announced_md5(response.headers)


def _announced_md5(headers: Message) -> str:
    """The MD5, hexadecimal, in Google Cloud Storage's header ``x-goog-hash: crc32c=...,md5=<base64>``, or ''."""
    for value in headers.get_all("x-goog-hash", []):
        for item in value.split(","):
            kind, _, encoded = item.strip().partition("=")
            if kind == "md5":
                with contextlib.suppress(binascii.Error):
                    return base64.b64decode(encoded, validate=True).hex()
    return ""


def _guarded(action: Callable[[], Result], url: str, advice_text: str) -> Result:
    try:
        return action()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"{url} could not be downloaded ({error}). {advice_text}") from error
