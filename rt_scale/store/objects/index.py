"""An index of finished runs: a store of many is looked at in few requests.

A driver that ends writes the small files of finished runs into objects below ``index/``. Run directories stay the
truth: a reader takes from the index only runs whose folder is still listed and that no process has begun again since.
Whoever begins a run first writes ``open/<name>.run``, and removes it after the result. Nothing is lost with ``index/``.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rt_scale.store.atomic import names_in
from rt_scale.store.objects.bucket import Bucket, Entry
from rt_scale.system.files import remove

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, OPEN = "index", "open"
FACTS, CURVES = ".facts", ".curves"
"""Ends of a part's two objects: spec, record and result of its runs; metrics and event files."""
LEAST = 50
"""Fewer finished runs than this are looked at one by one, and not indexed."""
_PARTS = 16
"""More parts are merged into one."""
_LARGE = 1 << 20
"""Files of more bytes are not in the index."""


class Indexed(NamedTuple):
    """A finished run: attempts, bytes, last change in seconds since 1970, steps with a checkpoint, its small files."""

    attempts: int
    size: int
    changed: float
    steps: list[int]
    files: list[str]


Files = dict[str, dict[str, bytes]]
"""Run -> name of a small file -> contents."""


class Index:
    """The index of a store, and this machine's copy of the facts in it.

    Attributes:
        runs: name -> what is known of it.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        """The index of ``bucket``, copied into ``folder``."""
        self._bucket, self._folder = bucket, folder
        self.runs: dict[str, Indexed] = {}
        self._parts: list[str] = []
        self._facts: Files = {}

    def refresh(self, listed: Iterable[str]) -> None:
        """Download what is new among the ``listed`` keys of the index."""
        parts = sorted(Path(key).stem for key in listed if key.endswith(FACTS))
        for name in set(names_in(self._folder)) - {part + FACTS for part in parts}:
            remove(self._folder / name)
        if parts == self._parts:
            return
        here = [part for part in parts if self._download(part)]
        self.runs, self._facts, self._parts = {}, {}, parts
        for part in here:
            for run, files in _unpack((self._folder / (part + FACTS)).read_bytes()).items():
                self.runs[run] = Indexed(*json.loads(files.pop("")))
                self._facts[run] = files

    def _download(self, part: str) -> bool:
        path = self._folder / (part + FACTS)
        # None: another driver has just merged it with others.
        return path.exists() or self._bucket.get_file(f"{INDEX}/{path.name}", path) is not None

    def facts(self, run: str) -> dict[str, bytes]:
        """Spec, record and result of an indexed run, by the names of the files."""
        return self._facts[run]

    def curves(self) -> Files:
        """Metrics and event files of all indexed runs."""
        found = self._bucket.each(lambda part: self._bucket.get(f"{INDEX}/{part}{CURVES}"), self._parts)
        return {run: files for data in found if data is not None for run, files in _unpack(data).items()}

    def add(self, runs: Mapping[str, Indexed], files: Files, curves: Files) -> None:
        """Write another part; merge the parts if there are many."""
        old = []
        if len(self._parts) >= _PARTS:
            old, runs = self._parts, {**self.runs, **runs}
            files, curves = self._facts | files, self.curves() | curves
        part = secrets.token_hex(8)
        facts = {run: {"": json.dumps(found).encode()} | files[run] for run, found in runs.items()}
        self._bucket.put(f"{INDEX}/{part}{CURVES}", _pack(curves))
        self._bucket.put(f"{INDEX}/{part}{FACTS}", _pack(facts))
        self._bucket.delete([f"{INDEX}/{each}{end}" for each in old for end in (FACTS, CURVES)])

    def drop(self, gone: Iterable[str]) -> None:
        """Write the index anew without the runs that are ``gone``, if it has any."""
        left = self.runs.keys() - set(gone)
        if len(left) == len(self.runs):
            return
        old, curves, facts = self._parts, self.curves() if left else {}, self._facts
        self.runs = {run: self.runs[run] for run in left}
        self._parts = []
        self._facts = {}
        if left:
            self.add(self.runs, facts, {run: files for run, files in curves.items() if run in left})
        self._bucket.delete([f"{INDEX}/{each}{end}" for each in old for end in (FACTS, CURVES)])


def indexed(entries: Mapping[str, Entry], attempts: int, small: Iterable[str]) -> Indexed:
    """What the index knows of a finished run with these objects (relative key -> entry)."""
    steps = sorted({int(key.split("/")[1]) for key in entries if key.endswith("/manifest.json")})
    size, changed = sum(entry.size for entry in entries.values()), max(entry.changed for entry in entries.values())
    return Indexed(attempts, size, changed, steps, sorted(small))


def read_files(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Those of the named files that are there and not large."""
    paths = ((name, folder / name) for name in names)
    return {name: path.read_bytes() for name, path in paths if path.is_file() and path.stat().st_size <= _LARGE}


def _pack(files: Files) -> bytes:
    import pyarrow as pa  # takes a moment to import
    import pyarrow.parquet as pq

    rows = [(run, name, data) for run, found in files.items() for name, data in found.items()]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    table = pa.table({name: pa.array(column, type_) for (name, type_), column in zip(_types(), columns, strict=True)})
    pq.write_table(table, buffer := BytesIO(), compression="zstd")
    return buffer.getvalue()


def _types() -> list[tuple[str, pa.DataType]]:
    import pyarrow as pa

    return [("run", pa.string()), ("file", pa.string()), ("data", pa.large_binary())]


def _unpack(data: bytes) -> Files:
    import pyarrow.parquet as pq

    found: Files = {}
    columns = pq.ParquetFile(BytesIO(data)).read().to_pydict()
    for run, name, contents in zip(columns["run"], columns["file"], columns["data"], strict=True):
        found.setdefault(run, {})[name] = contents
    return found


def make_folder(folder: str, temporary: str, found: Indexed, files: Mapping[str, bytes]) -> None:
    """Make the mirror's folder of an indexed run, which is not there yet, under a temporary name first.

    With 10,000 runs, Path would take longer than the disk.
    """
    steps = (f"/checkpoints/{step}" for step in found.steps)
    for name in ("", "/lease", "/checkpoints", *steps):
        os.mkdir(temporary + name)
    for name, data in files.items():
        with open(f"{temporary}/{name}", "wb") as file:
            file.write(data)
    for number in range(1, found.attempts + 1):
        path = f"{temporary}/lease/{number}.json"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        os.utime(path, (0, 0))
    try:
        os.rename(temporary, folder)
    except OSError:  # another process was faster
        remove(Path(temporary))
