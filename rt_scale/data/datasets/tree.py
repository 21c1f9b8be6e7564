"""The files below a folder, or in a tar or zip archive, by relative path: listed at once, read one by one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from rt_scale.data.files import reading, walk, writing
from rt_scale.spec.errors import InputError, printable

Parts = tuple[str, ...]
Member = TypeVar("Member")
_MOST_LINKS = 40
"""Links that one path may lead through, as in Linux."""
_OUTSIDE = "it leads out of the archive"


@dataclass(frozen=True)
class Link:
    """A link as an archive has it."""

    target: str
    hard: bool
    """Whether the target is a path from the archive's root, not from the link's own folder."""


class _Leads(Exception):
    """Why a path leads to nothing."""


def clean(name: str) -> Parts | None:
    """A member's name as a path from the archive's root; None where that is outside of it."""
    found: list[str] = []
    for part in split(name):
        if part != "..":
            found.append(part)
        elif found:
            found.pop()
        else:
            return None
    return tuple(found)


def split(name: str) -> Parts:
    """A path at its slashes, less what says nothing."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def follow(files: Mapping[Parts, Member], links: Mapping[Parts, Link]) -> tuple[dict[Parts, Member], dict[Parts, str]]:
    """Every path of an archive that is a file, through links too, and the links that are none, with the reason."""
    if not links:
        return dict(files), {}
    inside = _folders([*files, *links])
    found: dict[Parts, Member] = {}
    odd: dict[Parts, str] = {}
    root: Parts = ()
    waiting = [(root, root, frozenset([root]))]
    while waiting:
        shown, folder, above = waiting.pop()
        for name in inside[folder]:
            path, real = (*shown, name), (*folder, name)
            try:
                real = _real(real, links)
                if real in files:
                    found[path] = files[real]
                elif real not in inside:
                    raise _Leads("which the archive does not have")
                elif real in above:
                    raise _Leads("a folder that it lies in")
                else:
                    waiting.append((path, real, above | {real}))
            except _Leads as error:
                odd[path] = f"a link to '{printable(links[(*folder, name)].target)}': {error}"
    return found, odd


def _folders(paths: Iterable[Parts]) -> dict[Parts, set[str]]:
    """The names in each folder."""
    inside: dict[Parts, set[str]] = {(): set()}
    for path in paths:
        for depth in range(len(path) - 1, -1, -1):
            known = path[:depth] in inside
            inside.setdefault(path[:depth], set()).add(path[depth])
            if known:
                break
    return inside


def _real(path: Parts, links: Mapping[Parts, Link]) -> Parts:
    """``path`` without links in it; _Leads where it goes around, or out of the archive."""
    done: Parts = ()
    todo, followed = list(reversed(path)), 0
    while todo:
        part = todo.pop()
        if part == "..":
            if not done:
                raise _Leads(_OUTSIDE)
            done = done[:-1]
        elif (link := links.get((*done, part))) is None:
            done = (*done, part)
        else:
            followed += 1
            if followed > _MOST_LINKS:
                raise _Leads("it leads around in a circle")
            if link.hard:
                done = ()
            elif link.target.startswith("/"):
                raise _Leads(_OUTSIDE)
            todo += reversed(split(link.target))
    return done


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
    paths: tuple[Parts, ...]
    """Sorted; hidden files and folders are left out."""
    read: Callable[[Parts], bytes]
    """The contents of one file; may be called from several threads."""
    odd: Mapping[Parts, str] = field(default_factory=dict)
    """What is no file, by its path, sorted, with the reason: links that lead nowhere, around or out of an archive."""


def open_tree(path: Path, scratch: Path, stack: ExitStack) -> Tree:
    """List a folder or an archive.

    Links are followed: those of a folder wherever they lead, those of an archive inside of it. Nothing is
    unpacked: members are read by their offset, so none can be written outside of a folder. A compressed tar is first
    decompressed, as one file, into ``scratch``, because it can only be read in order.
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


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _tree(root: Path, files: Iterable[Parts], read: Callable[[Parts], bytes], odd: Mapping[Parts, str]) -> Tree:
    def kept(paths: Iterable[Parts]) -> list[Parts]:
        return sorted(path for path in paths if not any(map(_hidden, path)))

    return Tree(root, tuple(kept(files)), read, {path: odd[path] for path in kept(odd)})


def _folder(path: Path) -> Tree:
    found: list[Parts] = []
    odd: dict[Parts, str] = {}
    with reading(path, "Check that you may read it."):
        for level in walk(path, _hidden, _fail):
            parent = Path(level.folder).relative_to(path).parts
            found += [(*parent, name) for name in level.files]
            odd |= {(*parent, name): why for name, why in level.odd.items()}

    def read(parts: Parts) -> bytes:
        with open(os.path.join(path, *parts), "rb") as file:
            return file.read()

    return _tree(path, found, read, odd)


def _fail(error: OSError) -> None:
    with reading(error.filename, "Check that you may read it."):
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
        listed = {member.name: member for member in archive if member.isreg() or member.islnk() or member.issym()}
    links = {name: Link(member.linkname, member.islnk()) for name, member in listed.items() if not member.isreg()}
    members, odd = _followed(listed, links)
    file = stack.enter_context(plain.open("rb"))

    def read(parts: Parts) -> bytes:
        member = members[parts]
        return os.pread(file.fileno(), member.size, member.offset_data)

    return _tree(path, members, read, odd)


def _zip(path: Path, stack: ExitStack) -> Tree:
    archive = stack.enter_context(zipfile.ZipFile(path))
    listed = {_zip_name(member): member for member in archive.infolist() if not member.is_dir()}
    links = {
        name: Link(os.fsdecode(archive.read(member)), hard=False)
        for name, member in listed.items()
        if stat.S_ISLNK(member.external_attr >> 16) and member.file_size < 4096
    }
    members, odd = _followed(listed, links)

    def read(parts: Parts) -> bytes:
        return archive.read(members[parts])

    return _tree(path, members, read, odd)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name of a member; in UTF-8 where it is that without being marked so, as macOS writes them."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def _followed(listed: Mapping[str, Member], links: Mapping[str, Link]) -> tuple[dict[Parts, Member], dict[Parts, str]]:
    """The files of an archive by path, and what is none with the reason."""
    files: dict[Parts, Member] = {}
    followed: dict[Parts, Link] = {}
    outside: dict[Parts, str] = {}
    for name, member in listed.items():
        path = clean(name)
        if not path:
            outside[tuple(part for part in split(name) if part != "..")] = (
                f"'{printable(name)}' is outside of the archive"
            )
        elif name in links:
            followed[path] = links[name]
            files.pop(path, None)
        else:
            files[path] = member
            followed.pop(path, None)
    members, odd = follow(files, followed)
    return members, outside | odd
