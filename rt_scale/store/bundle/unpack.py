"""Opens a bundle as a store: checks it and unpacks it once into the user's cache."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import recorded_name
from rt_scale.store.atomic import disk_errors, names_in, read_json
from rt_scale.store.bundle import format as limits
from rt_scale.store.bundle.format import MANIFEST, RUN_NAME, Manifest, is_member, refusal
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.run_dir import CHECKPOINTS, SPEC
from rt_scale.store.store import FILE, LIST, OVERRIDES, Store
from rt_scale.system.files import TEMPORARY, remove, sync_folder, temporary_name
from rt_scale.system.paths import can_write

_BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError)
"""What gzip and tarfile raise for a damaged tar.gz file."""
_HEADER = 1 << 20
"""Bytes of a tar header, at most."""
_END = 1 << 15
"""Bytes after the last member, at most: tar files are padded with zeros to a multiple of 10,240."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its store, where reports of its runs are also written, and its manifest."""

    store: Store
    manifest: Manifest


def open_bundle(
    path: Path, cache: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Bundle:
    """The bundle in the file ``path`` as a store.

    Args:
        path: a file that ``bundle.pack`` wrote.
        cache: folder to unpack it in, in a subfolder named by its SHA-256; None: the user's cache.
        progress: called with (MB read, size in MB) while it is unpacked.

    Raises:
        InputError: the file is missing, damaged, or no bundle; nothing is kept of it.
        RunError: the disk is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise InputError("To open a bundle, Python 3.11.4 or newer is needed.")
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
    """Lock ``folder``, so that no other process unpacks into it."""
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            for unfinished in folder.parent.glob(f"{TEMPORARY}{folder.name}-*"):
                remove(unfinished)
            yield
        finally:
            os.close(handle)


def _unpack(path: Path, file: BufferedReader, folder: Path, progress: Callable[[int, int], None]) -> None:
    temporary = temporary_name(folder)
    try:
        temporary.mkdir(parents=True)
        names = _extract_all(path, file, temporary, progress)
        manifest = _check_manifest(path, temporary, names)
        _check_contents(path, temporary, manifest)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    except InputError:
        remove(temporary)
        raise
    except _BROKEN as error:
        remove(temporary)
        raise refusal(path, f"it is not a valid tar.gz file ({' '.join(str(error).split())[:200]})") from error
    except BaseException:
        remove(temporary)
        raise


class _Compressed(gzip.GzipFile):
    """Refuses overlong headers, which tarfile would read into memory as a whole."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _HEADER:
            raise tarfile.ReadError("a header in it is too long")
        return super().read(size)


def _extract_all(path: Path, file: BufferedReader, target: Path, progress: Callable[[int, int], None]) -> set[str]:
    """Write the members into ``target``, after checking their names, kinds and sizes; returns their names."""
    names: set[str] = set()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    left = most = min(limits.MOST_BYTES, limits.FREE_BYTES + limits.MOST_RATIO * size)
    with _Compressed(fileobj=file, mode="rb") as compressed, tarfile.open(fileobj=compressed, mode="r:") as archive:
        for member in archive:
            progress(file.tell() >> 20, size >> 20)
            name = member.name
            if not (is_member(name) or name == MANIFEST):
                raise refusal(path, f"it holds a file of the name {name[:200]!r}, which no bundle has")
            if name in names:
                raise refusal(path, f"it holds {name} twice")
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                raise refusal(path, f"{name} is not a regular file")
            if name.endswith((".json", ".yaml")) and member.size > limits.MOST_TEXT:
                raise refusal(path, f"{name} has more than {limits.MOST_TEXT:,} bytes")
            if len(names) == limits.MOST_FILES:
                raise refusal(path, f"it holds more files than the {limits.MOST_FILES:,} that a bundle may have")
            left -= member.size
            if left < 0:
                raise refusal(path, f"of its {size:,} bytes would become more than {most:,}")
            archive.extract(member, target, filter=_undated)
            names.add(name)
        # Reading to the end makes gzip check its checksum.
        if len(end := compressed.read(_END)) == _END or end.strip(b"\0"):
            raise refusal(path, "it does not end as a bundle does")
    return names


def _undated(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    """The member made safe to extract and dated 1970, which marks the owner of a lease as ended."""
    return tarfile.data_filter(member.replace(mtime=0, deep=False), target)


def _check_manifest(path: Path, folder: Path, names: set[str]) -> Manifest:
    """The manifest, whose list must match the bundle's files."""
    if MANIFEST not in names:
        raise refusal(path, f"it has no {MANIFEST}")
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "it"
        raise refusal(
            path, f"its {MANIFEST} is of another kind of file or version ({where}: {problem['msg']})"
        ) from None
    listed, there = set(manifest.files), names - {MANIFEST}
    for wrong, what in ((there - listed, "is not in its manifest"), (listed - there, "of its manifest is missing")):
        if wrong:
            raise refusal(path, f"{min(wrong)[:200]} {what}")
    for name, expected in manifest.files.items():
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256 or file.tell() != expected.size:
                raise refusal(path, f"{name} is not what its manifest says (size or SHA-256)")
    return manifest


def _check_contents(path: Path, folder: Path, manifest: Manifest) -> None:
    """Refuse undamaged files whose contents do not match their names."""
    if names_in(folder / "sweeps") != sorted(manifest.sweeps):
        raise refusal(path, "it holds other sweeps than its manifest names")
    try:
        for sweep in (folder / "sweeps" / name for name in manifest.sweeps):
            listed, _ = (TypeAdapter(list[str]).validate_python(read_json(sweep / name)) for name in (LIST, OVERRIDES))
            if not all(map(RUN_NAME.fullmatch, listed)) or not (sweep / FILE).is_file():
                raise ValueError(f"sweep {sweep.name} lacks its file, or lists what is no run")
        for run in (folder / "runs" / name for name in names_in(folder / "runs")):
            begun = names_in(run) != [LEASES]
            if run.name not in manifest.runs or (begun and recorded_name(read_json(run / SPEC)) != run.name):
                raise ValueError(f"the spec of run {run.name} is another run's")
        for file in folder.glob(f"runs/*/{CHECKPOINTS}/*/{MANIFEST}"):
            if not all(is_member(f"{file.parent.relative_to(folder)}/{name}") for name in read_json(file)["files"]):
                raise ValueError("a checkpoint names files that no bundle has")
    except (ValueError, KeyError, TypeError, RunError, FileNotFoundError, RecursionError) as error:
        raise refusal(path, f"what it holds does not fit together ({' '.join(str(error).split())[:200]})") from None
