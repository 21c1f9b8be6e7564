"""A store in an object store: its address, this machine's mirror of it, and what is brought here at once."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rt_scale.store.atomic import names_in
from rt_scale.store.objects.bucket import Bucket, Entry, changed_entries
from rt_scale.store.objects.mirror import ObjectRun, date
from rt_scale.store.objects.uri import clean_address, is_address, mirror_folder
from rt_scale.store.run_dir import RUNS, RunDir, Spec
from rt_scale.store.store import AGAIN, FILE, SWEEPS, Store
from rt_scale.system.files import temporary_name


class ObjectStore(Store):
    """A store in an object store, mirrored in the folder ``root``.

    Methods that ask the store raise InputError where it refuses, and StoreAway where it does not answer.
    """

    def __init__(self, bucket: Bucket, root: Path) -> None:
        """The store that ``bucket`` holds."""
        super().__init__(root)
        self.bucket = bucket
        self._sizes: dict[str, tuple[int, float]] = {}
        self._looked = -float("inf")

    @property
    def place(self) -> str:
        """Its address."""
        return self.bucket.address

    def run(self, spec: Spec | str) -> RunDir:
        """The mirror of a run."""
        name = spec if isinstance(spec, str) else spec.name
        return RunDir(self.root / RUNS / name, self._run(name))

    def _run(self, name: str) -> ObjectRun:
        return ObjectRun(self.bucket, name, self.root)

    def where(self, name: str) -> str:
        """The address of a run, for people to read."""
        return f"{self.place.partition('?')[0]}/{RUNS}/{name}"

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """The address of a place of its own; removed afterwards."""
        name = temporary_name(Path("scratch")).name
        try:
            yield self.bucket.name(name)
        finally:
            self.bucket.delete_folder(name)

    def now(self) -> float:
        """Seconds since 1970 by the server's clock."""
        return self.bucket.now()

    def check_writable(self) -> None:
        """Make sure that the store and the mirror can be written."""
        self.bucket.check_writable()
        super().check_writable()

    def refresh(self, *, curves: bool = True, younger: float = 0.0) -> None:
        """Bring the small files of all runs and sweeps here, and the state of every lease."""
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
        self.bucket.each(lambda name: self._run(name).show(found[name], now, curves), found)
        for name, entries in sweeps.items():
            self._show_sweep(name, entries, now)
        self._sizes = {name: _measure(entries) for name, entries in found.items() if entries}
        self._looked = time.monotonic()

    def _show_sweep(self, name: str, entries: Mapping[str, Entry], now: Callable[[], float]) -> None:
        folder = self.root / SWEEPS / name
        wanted = {file: entry for file, entry in entries.items() if file == FILE or _is_record(file)}
        here = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        for file in here:
            if (file == FILE or _is_record(file)) and file not in wanted:
                (folder / file).unlink(missing_ok=True)
        for file, entry in changed_entries(wanted, folder):
            self.bucket.get_file(f"{SWEEPS}/{name}/{file}", folder / file, date(entry, now()))

    def put(self, path: Path, data: bytes) -> None:
        """Send what is about to be written to the file ``path`` of the mirror."""
        self.bucket.put(path.relative_to(self.root).as_posix(), data)

    def send(self, path: Path) -> None:
        """Send a file of the mirror, or all files of a folder there."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        self.bucket.each(lambda file: self.bucket.put_file(file.relative_to(self.root).as_posix(), file), files)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove runs from the store and from here; which stay, and why."""
        gone = self.bucket.each(lambda name: self._run(name).remove(stale), runs)
        return {name: AGAIN for name, went in zip(runs, gone, strict=True) if not went}

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run in the store at the last look, else here, and when the newest of it was written."""
        return self._sizes.get(name) or super().measure(name)


def _is_record(file: str) -> bool:
    """Whether a file of a sweep's folder is what ``SweepDir.record`` wrote."""
    return file.endswith(".json") and "/" not in file


def _measure(entries: Mapping[str, Entry]) -> tuple[int, float]:
    return sum(entry.size for entry in entries.values()), max(entry.changed for entry in entries.values())


def open_place(place: str | Path) -> Store:
    """The store at a place as a user names it: a folder, ``s3://``, ``gs://`` or ``az://bucket/prefix``.

    Raises:
        InputError: an address that holds credentials, or that nothing here can open.
    """
    if not is_address(place):
        return Store(Path(place))
    address = clean_address(str(place))
    return ObjectStore(Bucket.open(address), mirror_folder(address))
