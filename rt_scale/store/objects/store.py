"""A store in an object store, mirrored on this machine."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import names_in
from rt_scale.store.lease import attempts_at
from rt_scale.store.objects.bucket import Bucket, Entry
from rt_scale.store.objects.index import INDEX, LEAST, OPEN, Index, indexed, make_folder, read_files
from rt_scale.store.objects.known import Known
from rt_scale.store.objects.mirror import MARKS, ObjectRun
from rt_scale.store.objects.names import is_curve, is_small, unwanted
from rt_scale.store.objects.uri import clean_address, is_address, mirror_folder
from rt_scale.store.run_dir import METRICS, RESULT, RUNS, Spec
from rt_scale.store.store import AGAIN, FILE, SWEEPS, Store
from rt_scale.system.files import temporary_name

_FEW = 3000
"""Up to so many objects are listed at once, without a look at the index."""
_FEW_RUNS, _RUNS_A_PAGE = 16, 40
"""More runs than this outside the index are found by listing all objects, of so many runs a page."""


class ObjectStore(Store):
    """A store in an object store, mirrored in the folder ``root``.

    Requests raise InputError if the store refuses, and StoreUnavailable if it does not answer.
    """

    def __init__(self, bucket: Bucket, root: Path) -> None:
        """The store in ``bucket``."""
        super().__init__(root)
        self.bucket = bucket
        self._listed: dict[str, dict[str, Entry]] = {}
        self._index, self._indexed = Index(bucket, root / MARKS / INDEX), False
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

    def refresh(self, *, curves: bool = True, events: bool = True, younger: float = 0.0) -> None:
        """Download the small files of all runs and sweeps, and the state of every lease."""
        if time.monotonic() - self._looked < younger:
            return
        listed, without = self.bucket.entries("", most=_FEW), unwanted(curves, events)
        self._indexed = listed is None
        if listed is not None:
            self._show(_by_name(listed, RUNS), _by_name(listed, SWEEPS), set(), without)
        else:
            self._refresh_many(without)
        self._looked = time.monotonic()

    def refresh_sweeps(self) -> None:
        """As :meth:`refresh`, only what is recorded of sweeps."""
        self._show_sweeps(_by_name(self.bucket.entries(SWEEPS), SWEEPS))

    def _refresh_many(self, without: tuple[str, ...]) -> None:
        """As :meth:`refresh`: the names of the runs, the index, and what that lacks."""
        list_: Callable[[str], dict[str, Entry]] = self.bucket.entries
        names, (sweeps, begun, index) = self.bucket.folders(RUNS), self.bucket.each(list_, (SWEEPS, OPEN, INDEX))
        self._index.refresh(index)
        done = (self._index.runs.keys() & names) - {Path(key).stem for key in begun}
        rest = names - done
        if len(rest) > _FEW_RUNS + len(names) // _RUNS_A_PAGE:
            runs = _by_name(self.bucket.entries_of(RUNS, sorted(names)), RUNS)
            runs = {name: entries for name, entries in runs.items() if name not in done}
        else:
            each = self.bucket.each(lambda name: list_(f"{RUNS}/{name}"), rest)
            runs = {name: _by_name(entries, RUNS).get(name, {}) for name, entries in zip(rest, each, strict=True)}
        self._show(runs, _by_name(sweeps, SWEEPS), done, without)
        self._show_indexed(done, without)

    def _show(
        self,
        runs: dict[str, dict[str, Entry]],
        sweeps: dict[str, dict[str, Entry]],
        done: AbstractSet[str],
        without: tuple[str, ...],
    ) -> None:
        """Show runs and sweeps (name -> relative key -> entry) in the mirror; others go, but for the runs ``done``."""
        runs = {name: {} for name in names_in(self.root / RUNS) if name not in done} | runs
        now = functools.cache(self.bucket.now)
        self.bucket.each(lambda name: self.run(name).show(runs[name], now, without), runs)
        self._show_sweeps(sweeps)
        self._listed = {name: entries for name, entries in runs.items() if entries}

    def _show_indexed(self, names: AbstractSet[str], without: tuple[str, ...]) -> None:
        """Show finished runs of the index in the mirror."""
        index, root = self._index, f"{self.root}/{RUNS}"
        there = functools.cache(index.curves)

        def files(name: str) -> dict[str, bytes]:
            curves = {} if METRICS.startswith(without) else there().get(name, {})
            return index.facts(name) | {file: data for file, data in curves.items() if not file.startswith(without)}

        os.makedirs(root, exist_ok=True)
        temporary = str(temporary_name(Path(root, "new")))
        for name in names - set(os.listdir(root)):  # not in threads: they would wait for each other
            make_folder(f"{root}/{name}", temporary, index.runs[name], files(name))
        missing = {
            name: [
                file
                for file in index.runs[name].files
                if not file.startswith(without) and not os.path.exists(f"{root}/{name}/{file}")
            ]
            for name in names
        }
        lacking = [name for name, found in missing.items() if found]
        if lacking:
            show = {name: files(name) for name in lacking}
            self.bucket.each(lambda name: self.run(name).show_indexed(index.runs[name], show[name], without), lacking)

    def tidy(self) -> None:
        """Index the finished runs that the last refresh found outside the index, if they are many."""
        new, facts, curves = {}, {}, {}
        for name, entries in self._listed.items() if self._indexed else ():
            run = self.run(name)
            small = set(filter(is_small, entries))
            if RESULT in small and (run.path / RESULT).exists():
                new[name] = indexed(entries, attempts_at(run.path), small)
                facts[name] = read_files(run.path, (file for file in small if not is_curve(file)))
                curves[name] = read_files(run.path, (file for file in small if is_curve(file) and "/" not in file))
        if len(new) >= LEAST:
            self._index.add(new, facts, curves)

    def _show_sweeps(self, sweeps: dict[str, dict[str, Entry]]) -> None:
        """Show these sweeps (name -> relative key -> entry) in the mirror; others go."""
        for name in {*names_in(self.root / SWEEPS), *sweeps}:
            self._show_sweep(name, sweeps.get(name, {}))

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
        self._index.drop(name for name, went in zip(runs, gone, strict=True) if went)
        return {name: AGAIN for name, went in zip(runs, gone, strict=True) if not went}

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run and when it last changed, at the last refresh, else in the mirror."""
        if entries := self._listed.get(name):
            return sum(entry.size for entry in entries.values()), max(entry.changed for entry in entries.values())
        if found := self._index.runs.get(name):
            return found.size, found.changed
        return super().measure(name)


def _by_name(entries: Mapping[str, Entry], kind: str) -> dict[str, dict[str, Entry]]:
    """The objects below ``kind/<name>/``: name -> relative key -> entry."""
    found: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        first, _, inner = key.partition("/")
        name, _, rest = inner.partition("/")
        if first == kind and rest:
            found.setdefault(name, {})[rest] = entry
    return found


def _is_record(file: str) -> bool:
    """Whether ``SweepDir.record`` wrote that file of a sweep's folder."""
    return file.endswith(".json") and "/" not in file


def open_place(place: str | Path) -> Store:
    """The store at ``place``: a folder, ``s3://``, ``gs://`` or ``az://bucket/prefix``.

    InputError: the address holds credentials or cannot be opened, or ``place`` is a file.
    """
    if not is_address(place):
        if Path(place).is_file():
            bundle = (
                f" A bundle is given in place of sweep files: rt-scale report {place}. To go on with its sweeps, "
                "unpack it by tar -xzf into a new folder, which then is a store."
            )
            raise InputError(
                f"'{place}' is a file, which cannot be written as a store: that is a folder or an address. Choose "
                f"another with --store or RT_SCALE_STORE.{bundle if str(place).endswith('.tar.gz') else ''}"
            )
        return Store(Path(place))
    address = clean_address(str(place))
    return ObjectStore(Bucket.open(address), mirror_folder(address))
