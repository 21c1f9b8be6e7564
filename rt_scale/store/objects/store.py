"""A store in an object store, mirrored on this machine."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rt_scale.store.atomic import names_in
from rt_scale.store.objects.bucket import Bucket, Entry
from rt_scale.store.objects.known import Known
from rt_scale.store.objects.mirror import MARKS, ObjectRun
from rt_scale.store.objects.uri import clean_address, is_address, mirror_folder
from rt_scale.store.run_dir import RUNS, Spec
from rt_scale.store.store import AGAIN, FILE, SWEEPS, Store
from rt_scale.system.files import temporary_name


class ObjectStore(Store):
    """A store in an object store, mirrored in the folder ``root``.

    Requests raise InputError if the store refuses, and StoreUnavailable if it does not answer.
    """

    def __init__(self, bucket: Bucket, root: Path) -> None:
        """The store in ``bucket``."""
        super().__init__(root)
        self.bucket = bucket
        self._sizes: dict[str, tuple[int, float]] = {}
        self._looked = -float("inf")

    @property
    def place(self) -> str:
        """The store's address."""
        return self.bucket.address

    def run(self, spec: Spec | str) -> ObjectRun:
        """The mirror of a run."""
        return ObjectRun(self.bucket, spec if isinstance(spec, str) else spec.name, self.root)

    def where(self, name: str) -> str:
        """The address of a run, for people."""
        return f"{self.place.partition('?')[0]}/{RUNS}/{name}"

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A temporary address; its objects are removed afterwards."""
        name = temporary_name(Path("scratch")).name
        try:
            yield self.bucket.name(name)
        finally:
            self.bucket.delete_folder(name)

    def now(self) -> float:
        """Seconds since 1970 by the server's clock."""
        return self.bucket.now()

    def check_writable(self) -> None:
        """Make sure that store and mirror can be written."""
        self.bucket.check_writable()
        super().check_writable()

    def refresh(self, *, curves: bool = True, younger: float = 0.0) -> None:
        """Download the small files of all runs and sweeps, and the state of every lease."""
        if time.monotonic() - self._looked < younger:
            return
        found: dict[str, dict[str, Entry]] = {name: {} for name in names_in(self.root / RUNS)}
        sweeps: dict[str, dict[str, Entry]] = {name: {} for name in names_in(self.root / SWEEPS)}
        kinds = {RUNS: found, SWEEPS: sweeps}
        for key, entry in self.bucket.entries("").items():
            kind, name, rest = (*key.split("/", 2), "", "")[:3]
            if rest and kind in kinds:
                kinds[kind].setdefault(name, {})[rest] = entry
        now = functools.cache(self.bucket.now)
        self.bucket.each(lambda name: self.run(name).show(found[name], now, curves), found)
        for name, entries in sweeps.items():
            self._show_sweep(name, entries)
        self._sizes = {name: _measure(entries) for name, entries in found.items() if entries}
        self._looked = time.monotonic()

    def _show_sweep(self, name: str, entries: Mapping[str, Entry]) -> None:
        folder = self.root / SWEEPS / name
        known = Known(self.root / MARKS / f"sweep-{name}.known", folder)
        known.read()
        wanted = {file: entry for file, entry in entries.items() if file == FILE or _is_record(file)}
        for file in names_in(folder):
            # The listing may lag behind a sweep that was just recorded.
            gone = (file == FILE or _is_record(file)) and file not in wanted
            if gone and self.bucket.look(f"{SWEEPS}/{name}/{file}") is None:
                (folder / file).unlink(missing_ok=True)
        for file, entry in wanted.items():
            if known.differs(file, entry.tag):
                tag = self.bucket.get_file(f"{SWEEPS}/{name}/{file}", folder / file)
                if tag is not None:
                    known.put(file, tag, Known.stamp(folder / file))
        known.keep(wanted)
        known.write()

    def put(self, path: Path, data: bytes) -> None:
        """Upload ``data``, which is about to be written to the file ``path`` of the mirror."""
        self.bucket.put(path.relative_to(self.root).as_posix(), data)

    def send(self, path: Path) -> None:
        """Upload a file of the mirror, or all files of a folder in it."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        self.bucket.each(lambda file: self.bucket.put_file(file.relative_to(self.root).as_posix(), file), files)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove runs from store and mirror; returns name -> why it is kept after all."""
        gone = self.bucket.each(lambda name: self.run(name).remove(stale), runs)
        return {name: AGAIN for name, went in zip(runs, gone, strict=True) if not went}

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run and when it last changed, at the last refresh, else in the mirror."""
        return self._sizes.get(name) or super().measure(name)


def _is_record(file: str) -> bool:
    """Whether ``SweepDir.record`` wrote that file of a sweep's folder."""
    return file.endswith(".json") and "/" not in file


def _measure(entries: Mapping[str, Entry]) -> tuple[int, float]:
    return sum(entry.size for entry in entries.values()), max(entry.changed for entry in entries.values())


def open_place(place: str | Path) -> Store:
    """The store at ``place``: a folder, ``s3://``, ``gs://`` or ``az://bucket/prefix``.

    InputError: the address holds credentials or cannot be opened.
    """
    if not is_address(place):
        return Store(Path(place))
    address = clean_address(str(place))
    return ObjectStore(Bucket.open(address), mirror_folder(address))
