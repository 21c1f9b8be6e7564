"""Runs that were computed on other images than a data set of that name holds here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rt_scale.data.prepared import META, contents_sha256
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
_OF_A_BUNDLE = (
    "These numbers are right for the bundle's own data; do not compare them with those of runs on what is here."
)
_RECORD = b'\n  "data": {'
"""What the record of the data begins with in ``result.json``, whose last entry it is."""


class OtherSet(NamedTuple):
    """A data set that has other contents here than when ``run`` was computed on it, by their SHA-256."""

    run: str
    data: str
    then: str
    here: str


@dataclass(frozen=True)
class Affected:
    """A run, finished or begun, on other data than is here: at least one set."""

    run: str
    finished: bool
    sets: Sequence[OtherSet]

    @property
    def mark(self) -> str:
        """In a few words, for a row of a table."""
        return f"other data: {', '.join(dict.fromkeys(each.data for each in self.sets))}"


class DataHere:
    """The data sets that are prepared in a folder; the checksum of each is read once.

    A run is compared where a set of its data's name is there and sound; else nothing is said of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sha256: dict[str, str | None] = {}
        self._compared: dict[bytes, list[OtherSet]] = {}

    def sha256(self, name: str) -> str | None:
        """Of the contents of the set ``name``; None where it is not there, is damaged, or is drawn."""
        if name not in self._sha256:
            self._sha256[name] = None if name == GAUSSIAN else contents_sha256(name, self.folder)
        return self._sha256[name]

    def others(self, run: str, record: DataRecord) -> list[OtherSet]:
        """The sets of the run of that name that have other contents here."""
        found = [
            OtherSet(run, name, known.sha256, here)
            for name, known in record.sets()
            if (here := self.sha256(name)) is not None and here != known.sha256
        ]
        for start, known in record.starts.items():
            found += self.others(start, known)
        return found

    def same(self, run: str, record: DataRecord) -> bool | None:
        """Whether all sets of a run have the contents here that it was computed on; None where not all are here."""
        if self.others(run, record):
            return False
        return True if all(map(self.sha256, _names(record))) else None

    def affected(self, store: Store, names: Iterable[str]) -> dict[str, Affected]:
        """Those of the runs that are on other data than is here, by name; what was never begun is on no data yet.

        Of a store in an object store, what is here of it is looked at: refresh it first.
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
                sets = self.others(name, begun.data) if begun else []
        except (RunError, ValueError, KeyError, TypeError):
            return None  # damaged, which is told where the run is read
        return Affected(name, text is not None, sets) if sets else None

    def _of_result(self, name: str, text: bytes) -> list[OtherSet]:
        """The sets of a finished run; runs of a sweep have one record of their data, which is compared once."""
        start = text.rfind(_RECORD)
        if start < 0:
            return self.others(name, DataRecord.model_validate(json.loads(text)["data"]))
        record = text[start:]
        if record not in self._compared:
            self._compared[record] = self.others("", DataRecord.model_validate(json.loads(b"{" + record)["data"]))
        return [each._replace(run=each.run or name) for each in self._compared[record]]


def refuse_other_data(run: str, record: DataRecord, data_dir: Path) -> None:
    """Refuse a run, finished or begun, that must not pass for one on the images that are here by the same names.

    Raises:
        InputError: naming the run, or the one that it starts from, and both checksums.
    """
    if sets := DataHere(data_dir).others(run, record):
        raise InputError(f"{_sentences([Affected(run, True, sets)], 1, data_dir, '')} {_REMEDY}")


def _read(path: str) -> bytes | None:
    """The contents of a file, None where there is none; without Path's and buffers' cost, for 100,000 runs."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return None


def _names(record: DataRecord) -> Iterator[str]:
    """The data sets of a run, and of those that it starts from."""
    yield from (name for name, _ in record.sets())
    for known in record.starts.values():
        yield from _names(known)


def compare(store: Store, names: Sequence[str], here: DataHere, of: str) -> tuple[dict[str, Affected], str]:
    """Which runs are on other data than is here, by name, and what is to be said of them: empty where there are none.

    ``of`` says what the runs are of, e.g. ``of sweep 'demo'``.
    """
    affected = here.affected(store, names)
    if not affected:
        return {}, ""
    advice = _OF_A_BUNDLE if (store.root / MANIFEST).exists() else _REMEDY
    return affected, f"{_sentences(affected.values(), len(names), here.folder, of)} {advice}"


def compare_sweeps(sweeps: Sequence[SweepRuns], here: DataHere) -> tuple[dict[str, Affected], str]:
    """As :func:`compare`, of the runs of sweeps of one store, at least one, and of those that they start from."""
    specs = all_runs(point.spec for sweep in sweeps for point in sweep.points)
    told = [f"'{name}'" for name in dict.fromkeys(sweep.name for sweep in sweeps)]
    of = f"of sweep{'s' if len(told) > 1 else ''} {', '.join(told)}"
    return compare(sweeps[0].store, [spec.name for spec in specs], here, of)


def _sentences(affected: Iterable[Affected], total: int, folder: Path, of: str) -> str:
    """One for every set, of the runs that were computed on it."""
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
