"""The files of a folder, a tar or a zip archive by relative path: listed at once, read one by one."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rt_scale.data.files import blocks, reading, writing
from rt_scale.spec.errors import InputError, printable

Parts = tuple[str, ...]
"""The parts of a path."""
Member = TypeVar("Member")
_MOST_LINKS = 40
"""Links that lead to one file, as in Linux."""
_MAY_READ = "Check that you may read it."
_ADVICE = "Get the archive again, or unpack it yourself and give the folder."
_DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass(frozen=True)
class Tree:
    """Files by their path."""

    root: Path
    paths: tuple[Parts, ...]
    """Sorted, without hidden files and folders."""
    read: Callable[[Parts], bytes]
    """The contents of one file; thread-safe."""
    odd: Mapping[Parts, str] = field(default_factory=dict)
    """Unusable path -> reason, sorted: special files, broken and circular links, in an archive links to folders."""


def open_tree(path: Path, scratch: Path, stack: ExitStack) -> Tree:
    """List a folder or an archive, which stays open until ``stack`` is closed.

    Links are followed; those of an archive only to files in it. A compressed tar is first decompressed as one file into
    ``scratch``. Security: members are read by offset and never unpacked, so none can be written outside of a folder.
    """
    if path.is_dir():
        return _folder(path)
    plain = path
    with reading(path, _ADVICE):
        if zipfile.is_zipfile(path):
            return _zip(path, stack)
        with open(path, "rb") as file:
            head = file.read(6)
        if opener := next((opener for magic, opener in _DECOMPRESSORS.items() if head.startswith(magic)), None):
            plain = scratch / "archive.tar"
            with opener(path, "rb") as file, writing(plain), open(plain, "wb") as out:
                out.writelines(blocks(file, path, _ADVICE))
        if not tarfile.is_tarfile(plain):
            raise InputError(f"'{path}' is neither a folder nor a tar or zip archive. Give a folder of class folders.")
        return _tar(path, plain, stack)


def _tree(root: Path, files: Iterable[Parts], read: Callable[[Parts], bytes], odd: Mapping[Parts, str]) -> Tree:
    def kept(paths: Iterable[Parts]) -> list[Parts]:
        return sorted(path for path in paths if not any(map(_hidden, path)))

    return Tree(root, tuple(kept(files)), read, {path: odd[path] for path in kept(odd)})


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _folder(path: Path) -> Tree:
    def fail(error: OSError) -> None:
        with reading(error.filename, _MAY_READ):
            raise error

    def read(parts: Parts) -> bytes:
        with open(os.path.join(path, *parts), "rb") as file:
            return file.read()

    found: list[Parts] = []
    odd: dict[Parts, str] = {}
    with reading(path, _MAY_READ):
        for folder, names, unusable in walk(path, _hidden, fail):
            parent = Path(folder).relative_to(path).parts
            found += [(*parent, name) for name in names]
            odd |= {(*parent, name): why for name, why in unusable.items()}
    return _tree(path, found, read, odd)


def _tar(path: Path, plain: Path, stack: ExitStack) -> Tree:
    listed: dict[str, tarfile.TarInfo | str] = {}
    with tarfile.open(plain, "r:") as archive:
        for member in archive:
            if member.isreg() or member.islnk():
                listed[member.name] = member if member.isreg() else member.linkname
            elif member.issym():
                listed[member.name] = posixpath.join(posixpath.dirname(member.name), member.linkname)
    members, odd = follow(listed)
    file = stack.enter_context(plain.open("rb"))

    def read(parts: Parts) -> bytes:
        member = members[parts]
        return os.pread(file.fileno(), member.size, member.offset_data)

    return _tree(path, members, read, odd)


def _zip(path: Path, stack: ExitStack) -> Tree:
    archive = stack.enter_context(zipfile.ZipFile(path))
    listed: dict[str, zipfile.ZipInfo | str] = {}
    for member in archive.infolist():
        name = _zip_name(member)
        if stat.S_ISLNK(member.external_attr >> 16) and member.file_size < 4096:
            listed[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(archive.read(member)))
        elif not member.is_dir():
            listed[name] = member
    members, odd = follow(listed)
    return _tree(path, members, lambda parts: archive.read(members[parts]), odd)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name of a member; macOS writes UTF-8 without marking it so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def follow(listed: Mapping[str, Member | str]) -> tuple[dict[Parts, Member], dict[Parts, str]]:
    """The files of an archive by path, and the reasons for unusable paths.

    ``listed`` are its members by name; a ``str`` is a link to the member of that name. Of two members with the same
    path the last is used.
    """
    members = {_split(name): member for name, member in listed.items()}
    files: dict[Parts, Member] = {}
    odd: dict[Parts, str] = {}
    for path, member in members.items():
        found: Member | str | None = member
        for _ in range(_MOST_LINKS):
            if isinstance(found, str):
                found = members.get(_split(found))
        if ".." in path:
            odd[tuple(part for part in path if part != "..")] = "it is outside of the archive"
        elif found is None or isinstance(found, str):
            odd[path] = f"a link to '{printable(str(member))}', which is no file in the archive"
        else:
            files[path] = found
    return files, odd


def _split(name: str) -> Parts:
    """The parts of a path in an archive; only one that leads out of it has ``..``."""
    path = posixpath.normpath(name.replace("\\", "/"))
    return tuple(part for part in path.split("/") if part not in ("", "."))


def walk(
    root: Path, skip: Callable[[str], bool], onerror: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Every folder of ``root``, its sorted files, links followed, and its unusable names with the reason.

    The folders are sorted, parents first. Unlike os.walk it ends on circular links. ``skip`` gets a name and returns
    whether to ignore it; ``onerror`` is called if a folder cannot be listed, which is then left out.
    """
    for folder, inner, names in os.walk(root, followlinks=True, onerror=onerror):
        above = [each for each in (Path(folder), *Path(folder).parents) if each.is_relative_to(root)]
        inner[:], names = ([name for name in sorted(each) if not skip(name)] for each in (inner, names))
        reasons = {name: _unusable(os.path.join(folder, name), above) for name in (*inner, *names)}
        odd = {name: reason for name, reason in reasons.items() if reason}
        inner[:] = (name for name in inner if name not in odd)
        yield folder, [name for name in names if name not in odd], odd


def _unusable(path: str, above: Iterable[Path]) -> str:
    """Why ``path`` is not read: no file, and no folder or one of those ``above`` it; empty if it is read."""
    if os.path.isfile(path):
        return ""
    link = f"a link to '{printable(os.readlink(path))}', " if os.path.islink(path) else ""
    if not os.path.isdir(path):
        return f"{link}neither a file nor a folder"
    around = link and any(os.path.samefile(path, folder) for folder in above)
    return f"{link}a folder that it lies in" if around else ""


def fingerprint(source: Path) -> str:
    """A digest that changes when a file of ``source`` is added, removed, resized or written to."""
    with reading(source, _MAY_READ):
        if source.is_file():
            status = source.stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        digest = hashlib.sha256()
        for folder, files, odd in walk(source, skip=lambda _: False, onerror=lambda _: None):
            for name in sorted([*files, *odd]):
                path = f"{folder}/{name}"
                status = os.lstat(path) if name in odd else os.stat(path)
                digest.update(os.fsencode(f"{path}:{status.st_size}:{status.st_mtime_ns}\n"))
        return digest.hexdigest()
