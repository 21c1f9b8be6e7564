"""Runs that were computed on a data set with the same name but other contents than the one prepared here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rt_scale.data.meta import META, contents_sha256
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import all_runs
from rt_scale.store.bundle.format import MANIFEST
from rt_scale.store.results import DataRecord
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns

_REMEDY = (
    "Prepare this one under another name, or use another store (--store), or prepare the images of those runs again "
    "under this name; where they are kept in another folder, name it with --data-dir."
)
_BUNDLE_ADVICE = (
    "These numbers are right for the bundle's own data; do not compare them with those of runs on what is here."
)
_BLOCK = 1 << 16
"""Bytes that are read at once."""
_RECORD = b'\n  "data": {'
"""Start of the data record, the last entry of ``result.json``."""


class OtherSet(NamedTuple):
    """A data set whose contents here differ from those that ``run`` was computed on; both as SHA-256."""

    run: str
    data: str
    then: str
    here: str


@dataclass(frozen=True)
class Affected:
    """A run, finished or begun, with at least one data set that differs here."""

    run: str
    finished: bool
    sets: Sequence[OtherSet]

    @property
    def mark(self) -> str:
        """A short note for a row of a table."""
        return f"other data: {', '.join(dict.fromkeys(each.data for each in self.sets))}"


class DataHere:
    """The data sets prepared in a folder, with cached checksums; missing and damaged sets are not compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sha256: dict[str, str | None] = {}
        self._compared: dict[bytes, list[OtherSet]] = {}

    def sha256(self, name: str) -> str | None:
        """SHA-256 of the contents of the set ``name``; None if it is missing, damaged, or drawn noise."""
        if name not in self._sha256:
            self._sha256[name] = None if name == GAUSSIAN else contents_sha256(name, self.folder)
        return self._sha256[name]

    def others(self, run: str, record: DataRecord) -> list[OtherSet]:
        """The data sets of ``run``, and of the runs it starts from, that have other contents here."""
        found = [
            OtherSet(run, name, known.sha256, here)
            for name, known in record.sets()
            if (here := self.sha256(name)) is not None and here != known.sha256
        ]
        for start, known in record.starts.items():
            found += self.others(start, known)
        return found

    def same(self, run: str, record: DataRecord) -> bool | None:
        """Whether all data sets of a run have the same contents here; None if one is missing."""
        if self.others(run, record):
            return False
        return True if all(map(self.sha256, _names(record))) else None

    def affected(self, store: Store, names: Iterable[str]) -> dict[str, Affected]:
        """The begun and finished runs among ``names`` with other data than here, by name.

        Reads the local copy of a store in an object store: refresh it first.
        """
        if not any(self.folder.glob(f"*/{META}")):
            return {}
        return {name: each for name in names if (each := self._run(store, name)) is not None}

    def _run(self, store: Store, name: str) -> Affected | None:
        text = _read(f"{store.root}/runs/{name}/{RESULT}")
        try:
            if text is not None:
                sets = self._of_result(name, text)
            else:
                begun = store.run(name).record()
                sets = self.others(name, begun.data) if begun and begun.data else []
        except (RunError, ValueError, KeyError, TypeError):
            return None  # damaged: whatever reads the run reports it
        return Affected(name, text is not None, sets) if sets else None

    def _of_result(self, name: str, text: bytes) -> list[OtherSet]:
        """The differing sets of a finished run; equal records, as in a sweep, are compared once."""
        start = text.rfind(_RECORD)
        if start < 0:
            return self.others(name, DataRecord.model_validate(json.loads(text)["data"]))
        record = text[start:]
        if record not in self._compared:
            self._compared[record] = self.others("", DataRecord.model_validate(json.loads(b"{" + record)["data"]))
        return [each._replace(run=each.run or name) for each in self._compared[record]]


def refuse_other_data(run: str, record: DataRecord | None, data_dir: Path) -> None:
    """Raise InputError if a run, or one that it starts from, has other data than here; names it and both checksums."""
    if record is not None and (sets := DataHere(data_dir).others(run, record)):
        raise InputError(f"{_sentences([Affected(run, True, sets)], 1, data_dir, '')} {_REMEDY}")


def _read(path: str) -> bytes | None:
    """The contents of a file, or None; ``open`` takes twice as long, which is slow for 100,000 runs."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(file, _BLOCK)
        while len(text) % _BLOCK == 0 and (more := os.read(file, _BLOCK)):  # a part of a block is the end
            text += more
        return text
    finally:
        os.close(file)


def _names(record: DataRecord) -> Iterator[str]:
    """The data sets of a run and of the runs that it starts from."""
    yield from (name for name, _ in record.sets())
    for known in record.starts.values():
        yield from _names(known)


def compare(store: Store, names: Sequence[str], here: DataHere, of: str) -> tuple[dict[str, Affected], str]:
    """The runs with other data than here, by name, and a message about them, empty if there are none.

    ``of`` describes the runs in the message, e.g. ``of sweep 'demo'``.
    """
    affected = here.affected(store, names)
    if not affected:
        return {}, ""
    advice = _BUNDLE_ADVICE if (store.root / MANIFEST).exists() else _REMEDY
    return affected, f"{_sentences(affected.values(), len(names), here.folder, of)} {advice}"


def compare_sweeps(sweeps: Sequence[SweepRuns], here: DataHere) -> tuple[dict[str, Affected], str]:
    """:func:`compare` for the runs of one or more sweeps of one store, and for the runs that they start from."""
    specs = all_runs(point.spec for sweep in sweeps for point in sweep.points)
    of = f"of {', '.join(dict.fromkeys(sweep.words for sweep in sweeps))}"
    return compare(sweeps[0].store, [spec.name for spec in specs], here, of)


def _sentences(affected: Iterable[Affected], total: int, folder: Path, of: str) -> str:
    """One sentence for every data set, about the runs that were computed on it."""
    found: dict[tuple[str, str], tuple[OtherSet, dict[str, Affected]]] = {}
    for run in affected:
        for each in run.sets:
            found.setdefault((each.data, each.then), (each, {}))[1][run.run] = run
    return " ".join(_sentence(data, list(runs.values()), total, folder, of) for data, runs in found.values())


def _sentence(data: OtherSet, runs: Sequence[Affected], total: int, folder: Path, of: str) -> str:
    done = sum(run.finished for run in runs)
    counts = [f"{number} {word}" for number, word in ((done, "finished"), (len(runs) - done, "begun")) if number]
    named = f", {runs[0].run}" + (" and others" if len(runs) > 1 else "")
    were = f"{len(runs)} of {total} runs {of} ({' and '.join(counts)}{named}) were"
    if total == 1:
        were = f"Run {data.run} was"
    return (
        f"{were} computed on a data set '{data.data}' with other contents (sha256 {data.then[:12]}..., here "
        f"{data.here[:12]}..., in '{folder / data.data}')."
    )
