"""A bundle opened as a store: unpacked once into the user's cache, after everything in it was checked."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import recorded_name
from rt_scale.store.atomic import can_write, disk_errors, read_json
from rt_scale.store.bundle import format as limits
from rt_scale.store.bundle.format import MANIFEST, File, Manifest, is_member, is_run, is_whole, refusal
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.run_dir import CHECKPOINTS, SPEC
from rt_scale.store.store import Store
from rt_scale.system.files import TEMPORARY, remove, sync_folder, temporary_name

CHUNK = 1 << 20
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), 20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, OverflowError)
"""What zipfile raises for a file that is no sound zip file."""
_LEASE = re.compile(rf"runs/[^/]+/{LEASES}/[^/]+")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        store: its runs and sweeps; reports and tables that are made of them go there, too.
        manifest: what it says of itself.
    """

    store: Store
    manifest: Manifest


def open_bundle(
    path: Path, cache: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Bundle:
    """The bundle in the file ``path`` as a store.

    Args:
        path: as ``bundle.pack`` wrote it.
        cache: folder that it is unpacked in, in a folder named by its SHA-256; None: the user's cache.
        progress: told (files done, files) while it is unpacked.

    Raises:
        InputError: where the file is missing, damaged, or holds anything that a bundle does not; nothing of it is
            kept then.
        RunError: where the disk is full.
    """
    cache = cache or limits.default_cache()
    with _opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        folder = cache / digest
        if not folder.exists() or can_write(cache):
            with _alone(folder):
                if not folder.exists():
                    _unpack(path, file, folder, progress)
    return Bundle(Store(folder), Manifest.model_validate(read_json(folder / MANIFEST)))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise InputError(f"There is no file {path}. Name the bundle that 'rt-scale bundle' wrote.") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error.strerror}. Name a bundle that can.") from None
    with file:
        yield file


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else unpacks into ``folder`` during the body."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for left in folder.parent.glob(f"{TEMPORARY}{folder.name}-*"):
                remove(left)
            yield
        finally:
            os.close(handle)


def _unpack(path: Path, file: BufferedReader, folder: Path, progress: Callable[[int, int], None]) -> None:
    temporary = temporary_name(folder)
    try:
        size = _check_directory(path, file)
        with zipfile.ZipFile(file) as archive:
            members = _check_members(path, archive, size)
            manifest = _read_manifest(path, archive, members)
            for number, (name, expected) in enumerate(manifest.files.items()):
                progress(number, len(manifest.files))
                _extract(path, archive, members[name], temporary / name, expected)
            _extract(path, archive, members[MANIFEST], temporary / MANIFEST, None)
        _check_contents(path, temporary, manifest)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    except InputError:
        remove(temporary)
        raise
    except _BROKEN as error:
        remove(temporary)
        raise refusal(path, f"it is no sound zip file ({' '.join(str(error).split())[:200]})") from error
    except BaseException:
        remove(temporary)
        raise


def _check_directory(path: Path, file: BufferedReader) -> int:
    """Refuse a list of members that is too long to be read into memory, as zipfile does; the file's size in bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END64.size - _LOCATOR - _END.size))
    large, end = (tail := file.read())[: -_END.size], tail[-_END.size :]
    if len(end) < _END.size or end[:4] != b"PK\5\6" or end[-2:] != b"\0\0":
        raise refusal(path, "it does not end as a bundle does")
    *_, length, _, _ = _END.unpack(end)
    if large[_END64.size :][:4] == b"PK\6\7":
        *_, length, _ = _END64.unpack(large[: _END64.size])
    if length > limits.MOST_FILES * limits.MOST_ENTRY:
        raise refusal(path, f"it lists more files than the {limits.MOST_FILES:,} that a bundle may have")
    return size


def _check_members(path: Path, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, after all that their list says was checked."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > limits.MOST_FILES:
        raise refusal(path, f"it lists more files than the {limits.MOST_FILES:,} that a bundle may have")
    for info in archive.infolist():
        name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
        if not (is_member(name) or name == MANIFEST) or name != info.orig_filename:
            raise refusal(path, f"it holds a file of the name {name[:200]!r}, which no bundle has")
        if name in members:
            raise refusal(path, f"it holds {name} twice")
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise refusal(path, f"{name} is a link, a device or encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refusal(path, f"{name} is compressed in another way than bundles are")
        if is_whole(name) and info.file_size > limits.MOST_TEXT:
            raise refusal(path, f"{name} has more than {limits.MOST_TEXT:,} bytes")
        members[name] = info
    unpacked = sum(info.file_size for info in members.values())
    most = min(limits.MOST_BYTES, limits.FREE_BYTES + limits.MOST_RATIO * size)
    if unpacked > most or sum(info.compress_size for info in members.values()) > size:
        raise refusal(path, f"its {size:,} bytes would become {unpacked:,}; at most {most:,} are unpacked")
    if MANIFEST not in members:
        raise refusal(path, f"it has no {MANIFEST}")
    return members


def _read_manifest(path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(archive.read(members[MANIFEST]))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise refusal(
            path, f"its {MANIFEST} is of another kind of file or version ({where}: {problem['msg']})"
        ) from None
    listed, there = set(manifest.files), set(members) - {MANIFEST}
    for names, what in ((there - listed, "is not in its manifest"), (listed - there, "of its manifest is missing")):
        if names:
            raise refusal(path, f"{min(names)[:200]} {what}")
    return manifest


def _extract(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, expected: File | None) -> None:
    """Write one member; its size and checksum must be those ``expected``, of the manifest itself any."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size, digest = 0, hashlib.sha256()
    most = info.file_size if expected is None else expected.size
    with archive.open(info) as source, open(target, "xb") as out:
        while size <= most and (chunk := source.read(CHUNK)):
            size += len(chunk)
            digest.update(chunk)
            out.write(chunk)
    if expected is not None and (size, digest.hexdigest()) != (expected.size, expected.sha256):
        raise refusal(path, f"{info.filename} is not what its manifest says (size or SHA-256)")
    if _LEASE.fullmatch(info.filename):
        os.utime(target, (0, 0))  # nobody is at work here


def _check_contents(path: Path, folder: Path, manifest: Manifest) -> None:
    """Refuse files that are whole, but not what their names promise."""
    if _names(folder / "sweeps") != sorted(manifest.sweeps):
        raise refusal(path, "it holds other sweeps than its manifest names")
    try:
        for sweep in (folder / "sweeps" / name for name in manifest.sweeps):
            listed = TypeAdapter(list[str]).validate_python(read_json(sweep / "runs.json"))
            if not all(map(is_run, listed)) or not (sweep / "sweep.yaml").is_file():
                raise ValueError(f"sweep {sweep.name} lacks its file, or lists what is no run")
        for run in (folder / "runs" / name for name in _names(folder / "runs")):
            begun = _names(run) != [LEASES]
            if run.name not in manifest.runs or (begun and recorded_name(read_json(run / SPEC)) != run.name):
                raise ValueError(f"the spec of run {run.name} is another run's")
        for file in folder.glob(f"runs/*/{CHECKPOINTS}/*/{MANIFEST}"):
            if not all(is_member(f"{file.parent.relative_to(folder)}/{name}") for name in read_json(file)["files"]):
                raise ValueError("a checkpoint names files that no bundle has")
    except (ValueError, KeyError, TypeError, RunError, FileNotFoundError, RecursionError) as error:
        raise refusal(path, f"what it holds does not fit together ({' '.join(str(error).split())[:200]})") from None


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
