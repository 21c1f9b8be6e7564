"""Objects below a prefix of an object store, through pyarrow's file systems; what fails for a while is tried again."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import disk_errors
from rt_scale.store.objects.retries import BRIEF, PATIENCE, Retries, in_a_line
from rt_scale.system.files import remove, temporary_name

T = TypeVar("T")
_THREADS = 16
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        size: in bytes.
        changed: when it was last written, in seconds since 1970 by the server's clock; S3's has whole seconds.
    """

    size: int
    changed: float


class Bucket:
    """What an object store keeps below a prefix; keys are relative to it.

    Attributes:
        address: of the prefix, for people.
    """

    def __init__(self, system: Any, root: str, address: str, *, patience: float = PATIENCE) -> None:
        """Objects of ``system``.

        Args:
            system: a pyarrow FileSystem.
            root: bucket and prefix there.
            address: as it is named in messages.
            patience: seconds for which an operation is tried again.
        """
        self._system, self._root, self.address = system, root, address
        self._retries = Retries(address, root.partition("/")[0], patience)

    @staticmethod
    def open(address: str) -> Bucket:
        """The objects at ``address``, which ``place.clean_address`` made; nothing is asked of the store yet.

        Raises:
            InputError: where pyarrow cannot open it.
        """
        import pyarrow as pa
        from pyarrow.fs import FileSystem  # takes a moment to import, and a store in a folder does not need it

        # A small file is then one request, and its date that of this request, not of an upload's beginning.
        option = ("&" if "?" in address else "?") + "allow_delayed_open=true"
        whole = address + (option if address.startswith("s3") else "")
        try:
            # Without a region in the address, the store is asked for it.
            retries = Retries(address, urlsplit(address).netloc, PATIENCE)
            system, root = retries.tried("open", "", lambda: FileSystem.from_uri(whole))
        except (pa.ArrowException, FileNotFoundError) as error:
            raise InputError(f"The store '{address}' cannot be opened: {in_a_line(error)}") from error
        return Bucket(system, root.rstrip("/"), address)

    @contextlib.contextmanager
    def brief(self) -> Iterator[Bucket]:
        """These objects, for somebody who waits :data:`BRIEF` at most."""
        yield Bucket(self._system, self._root, self.address, patience=min(BRIEF, self._retries.patience))

    def name(self, key: str) -> str:
        """The object as it is named in messages."""
        return self._retries.name(key)

    def put(self, key: str, data: bytes) -> None:
        """Write an object: readers see the old contents or the new, never a part.

        Raises:
            InputError: the store refuses, or there is no such bucket.
            StoreAway: it does not answer.
        """

        def write() -> None:
            with self._system.open_output_stream(self._path(key)) as out:
                out.write(data)

        self._write(key, write)

    def put_file(self, key: str, path: Path) -> None:
        """Write the contents of a file as an object; raises as :meth:`put`."""

        def write() -> None:
            with self._system.open_output_stream(self._path(key)) as out:
                file.seek(0)
                while block := file.read(_BLOCK):
                    out.write(block)

        with open(path, "rb") as file:
            self._write(key, write)

    def _write(self, key: str, write: Callable[[], None]) -> None:
        try:
            self._retries.tried("write", key, write)
        except FileNotFoundError as error:  # as some stores call a bucket that is not there
            raise self._retries.no_bucket() from error

    def get(self, key: str) -> bytes | None:
        """An object's contents, None where there is none; raises as :meth:`put`."""

        def read() -> bytes:
            with self._system.open_input_stream(self._path(key), compression=None) as source:
                content: bytes = source.read()
            return content

        try:
            return self._retries.tried("read", key, read)
        except FileNotFoundError:
            return None

    def get_file(self, key: str, path: Path, changed: float | None = None) -> bool:
        """Make a file of an object, in one piece; whether there is one. Raises as :meth:`put`.

        Args:
            key: the object.
            path: the file, which is replaced; its folder is made.
            changed: the date that the file gets, in seconds since 1970; None: now.
        """
        temporary = temporary_name(path)

        def read() -> None:
            with self._system.open_input_stream(self._path(key), compression=None) as source:
                with disk_errors(path):
                    temporary.write_bytes(b"")
                while block := source.read(_BLOCK):
                    with disk_errors(path), open(temporary, "ab") as out:
                        out.write(block)

        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._retries.tried("read", key, read)
            if changed is not None:
                os.utime(temporary, (changed, changed))
            os.replace(temporary, path)
        except FileNotFoundError:
            return False
        finally:
            remove(temporary)
        return True

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Every object below the folder ``prefix``: key -> entry. Raises as :meth:`put`.

        Left out is what no path of a file here could be named after.
        """
        from pyarrow.fs import FileSelector, FileType

        folder = self._path(prefix)

        def look() -> list[Any]:
            selector = FileSelector(folder, recursive=True, allow_not_found=True)
            found: list[Any] = self._system.get_file_info(selector)
            if not found and self._system.get_file_info(self._root.partition("/")[0]).type == FileType.NotFound:
                raise OSError("NO_SUCH_BUCKET")
            return found

        found = self._retries.tried("list", prefix, look)
        start = len(self._root) + 1
        return {
            info.path[start:]: Entry(info.size or 0, (info.mtime_ns or 0) / 1e9)
            for info in found
            if info.type == FileType.File and not {"", ".", ".."}.intersection(info.path[start:].split("/"))
        }

    def delete(self, key: str) -> None:
        """Remove an object, where it is there; raises as :meth:`put`."""
        with contextlib.suppress(FileNotFoundError):
            self._retries.tried("remove", key, lambda: self._system.delete_file(self._path(key)))

    def delete_folder(self, prefix: str) -> None:
        """Remove every object below ``prefix``, where there are some; raises as :meth:`put`."""
        with contextlib.suppress(FileNotFoundError):
            self._retries.tried("remove", prefix, lambda: self._system.delete_dir(self._path(prefix)))

    def now(self) -> float:
        """Seconds since 1970 by the server's clock, which dates the objects; ours where nothing may be written."""
        key = f"clock/{secrets.token_hex(8)}"
        try:
            self.put(key, b"")
            found = self._retries.tried("look at", key, lambda: self._system.get_file_info(self._path(key)))
            self.delete(key)
        except InputError:
            return time.time()
        return float(found.mtime_ns or 0) / 1e9

    def each(self, work: Callable[[T], object], items: Iterable[T]) -> None:
        """Do ``work`` on every item, many at a time; the first error is raised."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for done in [pool.submit(work, item) for item in items]:
                done.result()

    def check_writable(self) -> None:
        """Write an object and remove it; raises as :meth:`put`."""
        key = f"clock/{secrets.token_hex(8)}"
        self.put(key, b"")
        self.delete(key)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}".rstrip("/")


def changed_entries(entries: Mapping[str, Entry], folder: Path) -> Iterator[tuple[str, Entry]]:
    """Those of ``entries`` (relative name -> entry) that the files below ``folder`` do not hold as dated there."""
    for name, entry in entries.items():
        try:
            found = (folder / name).stat()
        except OSError:
            yield name, entry
            continue
        if found.st_size != entry.size or abs(found.st_mtime - entry.changed) > 1e-3:
            yield name, entry
