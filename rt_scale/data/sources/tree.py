"""The files below a folder, or in a tar or zip archive, by relative path: listed at once, read one by one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rt_scale.data.files import reading, writing
from rt_scale.spec.errors import InputError

_DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_ADVICE = "Get the archive again, or unpack it yourself and give the folder."


@dataclass(frozen=True)
class Tree:
    """Files by their path, split at the slashes."""

    root: Path
    paths: tuple[tuple[str, ...], ...]
    """Sorted; hidden files and folders are left out."""
    read: Callable[[tuple[str, ...]], bytes]
    """The contents of one file; may be called from several threads."""


def open_tree(path: Path, scratch: Path, stack: ExitStack) -> Tree:
    """List a folder or an archive.

    Nothing is unpacked: members are read by their offset, so none can be written outside of a folder. A
    compressed tar is first decompressed, as one file, into ``scratch``, because it can only be read in order.
    An archive stays open until ``stack`` is closed.
    """
    if path.is_dir():
        return _folder(path)
    with reading(path, _ADVICE):
        if zipfile.is_zipfile(path):
            return _zip(path, stack)
        with open(path, "rb") as file:
            head = file.read(6)
    opener = next((opener for magic, opener in _DECOMPRESSORS.items() if head.startswith(magic)), None)
    plain = path
    if opener is not None:
        plain = scratch / "archive.tar"
        _decompress(opener, path, plain)
    with reading(path, _ADVICE):
        if not tarfile.is_tarfile(plain):
            raise InputError(f"'{path}' is neither a folder nor a tar or zip archive. Give a folder of class folders.")
        return _tar(path, plain, stack)


def _kept(parts: tuple[str, ...]) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _folder(path: Path) -> Tree:
    found = []
    with reading(path, "Check that you may read it."):
        for folder, _, names in os.walk(path, followlinks=True, onerror=_fail):
            parent = Path(folder).relative_to(path).parts
            found += [(*parent, name) for name in names]

    def read(parts: tuple[str, ...]) -> bytes:
        with open(os.path.join(path, *parts), "rb") as file:
            return file.read()

    return Tree(path, tuple(sorted(filter(_kept, found))), read)


def _fail(error: OSError) -> None:
    raise error


def _decompress(opener: Callable[..., Any], source: Path, target: Path) -> None:
    with open(target, "wb") as out:
        guarded = _GuardedWriter(out, target)
        with reading(source, _ADVICE), opener(source, "rb") as compressed:
            shutil.copyfileobj(compressed, guarded, 1 << 20)


@dataclass(frozen=True)
class _GuardedWriter:
    """Names the target, not the source, when the disk fills up in the middle of a copy."""

    file: IO[bytes]
    path: Path

    def write(self, data: bytes) -> int:
        with writing(self.path):
            return self.file.write(data)


def _tar(path: Path, plain: Path, stack: ExitStack) -> Tree:
    with tarfile.open(plain, "r:") as archive:
        members = {_parts(member.name): member for member in archive if member.isreg()}
    file = stack.enter_context(plain.open("rb"))

    def read(parts: tuple[str, ...]) -> bytes:
        member = members[parts]
        return os.pread(file.fileno(), member.size, member.offset_data)

    return Tree(path, tuple(sorted(filter(_kept, members))), read)


def _zip(path: Path, stack: ExitStack) -> Tree:
    archive = stack.enter_context(zipfile.ZipFile(path))
    members = {_parts(member.filename): member for member in archive.infolist() if not member.is_dir()}

    def read(parts: tuple[str, ...]) -> bytes:
        return archive.read(members[parts])

    return Tree(path, tuple(sorted(filter(_kept, members))), read)


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
