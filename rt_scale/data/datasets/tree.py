"""The files of a folder, a tar or a zip archive by relative path: listed at once, read one by one."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rt_scale.data.files import blocks, reading, writing
from rt_scale.spec.errors import InputError, printable

Parts = tuple[str, ...]
"""The parts of a path."""
Member = TypeVar("Member")
_MOST_LINKS = 40
"""Links in one path, as in Linux."""
_OUTSIDE = "it leads out of the archive"
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
    """Unusable path -> reason, sorted: special files, and links that are broken, circular or leave the archive."""


def open_tree(path: Path, scratch: Path, stack: ExitStack) -> Tree:
    """List a folder or an archive, which stays open until ``stack`` is closed.

    Links are followed; those of an archive may not leave it. Security: members are read by offset and never unpacked,
    so none can be written outside of a folder. A compressed tar is first decompressed into ``scratch``, as one file.
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
        for level in walk(path, _hidden, fail):
            parent = Path(level.folder).relative_to(path).parts
            found += [(*parent, name) for name in level.files]
            odd |= {(*parent, name): why for name, why in level.odd.items()}
    return _tree(path, found, read, odd)


def _tar(path: Path, plain: Path, stack: ExitStack) -> Tree:
    with tarfile.open(plain, "r:") as archive:
        listed = {
            member.name: member if member.isreg() else Link(member.linkname, member.islnk())
            for member in archive
            if member.isreg() or member.islnk() or member.issym()
        }
    members, odd = follow(listed)
    file = stack.enter_context(plain.open("rb"))

    def read(parts: Parts) -> bytes:
        member = members[parts]
        return os.pread(file.fileno(), member.size, member.offset_data)

    return _tree(path, members, read, odd)


def _zip(path: Path, stack: ExitStack) -> Tree:
    archive = stack.enter_context(zipfile.ZipFile(path))
    listed: dict[str, zipfile.ZipInfo | Link] = {}
    for member in archive.infolist():
        if stat.S_ISLNK(member.external_attr >> 16) and member.file_size < 4096:
            listed[_zip_name(member)] = Link(os.fsdecode(archive.read(member)), hard=False)
        elif not member.is_dir():
            listed[_zip_name(member)] = member
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


class Link(NamedTuple):
    """A link in an archive; the target of a hard one is relative to the archive's root."""

    target: str
    hard: bool


class LeadsNowhere(Exception):
    """A path that does not lead to a file, with the reason."""


def follow(listed: Mapping[str, Member | Link]) -> tuple[dict[Parts, Member], dict[Parts, str]]:
    """The files of an archive by path, links followed, and the reasons for unusable paths.

    Of two members with the same path the last is used.
    """
    files: dict[Parts, Member] = {}
    links: dict[Parts, Link] = {}
    odd: dict[Parts, str] = {}
    for name, member in listed.items():
        try:
            path = resolve(split(name), {})
        except LeadsNowhere:
            path = ()
        files.pop(path, None)
        links.pop(path, None)
        if not path:
            outside = tuple(part for part in split(name) if part != "..")
            odd[outside] = f"'{printable(name)}' is outside of the archive"
        elif isinstance(member, Link):
            links[path] = member
        else:
            files[path] = member
    return (_through(files, links, odd) if links else files), odd


def _through(files: Mapping[Parts, Member], links: Mapping[Parts, Link], odd: dict[Parts, str]) -> dict[Parts, Member]:
    """The files at every path, below linked folders too; unusable paths go into ``odd``."""
    inside = _folders([*files, *links])
    found: dict[Parts, Member] = {}
    root: Parts = ()
    waiting = [(root, root, frozenset([root]))]
    while waiting:
        shown, folder, above = waiting.pop()
        for name in inside[folder]:
            path = (*shown, name)
            try:
                real = resolve((*folder, name), links)
                if real in files:
                    found[path] = files[real]
                elif real not in inside:
                    raise LeadsNowhere("which the archive does not have")
                elif real in above:
                    raise LeadsNowhere("a folder that it lies in")
                else:
                    waiting.append((path, real, above | {real}))
            except LeadsNowhere as error:
                odd[path] = f"a link to '{printable(links[(*folder, name)].target)}': {error}"
    return found


def _folders(paths: Iterable[Parts]) -> dict[Parts, set[str]]:
    inside: dict[Parts, set[str]] = {(): set()}
    for path in paths:
        for depth in range(len(path) - 1, -1, -1):
            known = path[:depth] in inside
            inside.setdefault(path[:depth], set()).add(path[depth])
            if known:
                break
    return inside


def split(name: str) -> Parts:
    """The parts of a path, without empty ones and ``.``."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def resolve(path: Parts, links: Mapping[Parts, Link]) -> Parts:
    """``path`` with links resolved; LeadsNowhere if they are circular or leave the archive."""
    done: Parts = ()
    todo, followed = list(reversed(path)), 0
    while todo:
        part = todo.pop()
        if part == "..":
            if not done:
                raise LeadsNowhere(_OUTSIDE)
            done = done[:-1]
        elif (link := links.get((*done, part))) is None:
            done = (*done, part)
        else:
            followed += 1
            if followed > _MOST_LINKS:
                raise LeadsNowhere("it leads around in a circle")
            if link.hard:
                done = ()
            elif link.target.startswith("/"):
                raise LeadsNowhere(_OUTSIDE)
            todo += reversed(split(link.target))
    return done


class Level(NamedTuple):
    """The sorted entries of one folder: names of files and links to files; unusable names with the reason."""

    folder: str
    files: list[str]
    odd: dict[str, str]


def walk(root: Path, skip: Callable[[str], bool], onerror: Callable[[OSError], None]) -> Iterator[Level]:
    """Every folder of ``root``, sorted, parents first, links followed; unlike os.walk it ends on circular links.

    ``skip`` gets an entry's name and returns whether to ignore it; ``onerror`` is called if a folder cannot be listed,
    which is then skipped.
    """
    waiting = [(str(root), frozenset([_identity(os.stat(root))]))]
    while waiting:
        folder, above = waiting.pop()
        level, inside = Level(folder, [], {}), []
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            onerror(error)
            continue
        for entry in entries:
            if skip(entry.name):
                continue
            if (folder_or_why := _look(entry, above)) is None:
                level.files.append(entry.name)
            elif isinstance(folder_or_why, str):
                level.odd[entry.name] = folder_or_why
            else:
                inside.append((entry.path, above | {folder_or_why}))
        yield level
        waiting += reversed(inside)


def _look(entry: os.DirEntry[str], above: frozenset[tuple[int, int]]) -> tuple[int, int] | str | None:
    """The identity of a folder, the reason for an unusable entry, or None for a file."""
    try:
        if entry.is_file():
            return None
        status = entry.stat()
    except OSError as error:
        return f"{_target(entry)}: {error.strerror}"
    if not entry.is_dir():
        return "neither a file nor a folder"
    identity = _identity(status)
    return f"{_target(entry)}, a folder that it lies in" if identity in above else identity


def _target(entry: os.DirEntry[str]) -> str:
    return f"a link to '{printable(os.readlink(entry.path))}'" if entry.is_symlink() else "it cannot be looked at"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def fingerprint(source: Path) -> str:
    """A digest that changes when a file of ``source`` is added, removed, resized or written to."""
    with reading(source, _MAY_READ):
        if source.is_file():
            status = source.stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        digest = hashlib.sha256()
        for level in walk(source, skip=lambda _: False, onerror=lambda _: None):
            for name in sorted([*level.files, *level.odd]):
                path = f"{level.folder}/{name}"
                status = os.lstat(path) if name in level.odd else os.stat(path)
                digest.update(os.fsencode(f"{path}:{status.st_size}:{status.st_mtime_ns}\n"))
        return digest.hexdigest()
