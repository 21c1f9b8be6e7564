"""Finds and removes runs that no sweep refers to, and files that killed processes left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec, all_runs, read_recorded, recorded_name, runs_within
from rt_scale.store.atomic import measure, names_in, read_json, remove_whole
from rt_scale.store.checkpoints import DAMAGED
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import file_system_time
from rt_scale.store.run_dir import ARTIFACTS, CHECKPOINTS, SPEC, RunDir, State
from rt_scale.store.store import Store, SweepDir
from rt_scale.store.sweep_runs import read_sweep
from rt_scale.system.files import TEMPORARY

GRACE = 3600.0
"""Seconds for which an owner without a heartbeat counts as alive, and a temporary file as in use."""

Kind = State | Literal["leftover"]


@dataclass(frozen=True)
class Garbage:
    """A run, or an unfinished or damaged file or folder (``leftover``): size in bytes, age in seconds."""

    path: Path
    state: Kind
    size: int
    age: float


def _leftovers(store: Store, doomed: set[str]) -> Iterator[Path]:
    """Temporary files and damaged checkpoints, except in running runs and ``doomed`` ones."""
    yield from _marked(store.root)
    yield from _marked(store.root / "runs")
    for name in store.names():
        if name in doomed:
            continue
        run = store.run(name)
        found = [path for folder in ("", LEASES, CHECKPOINTS, ARTIFACTS) for path in _marked(run.path / folder)]
        if found and run.status(GRACE).state != "running":
            yield from found
    yield from _marked(store.root / "sweeps")
    for sweep in store.sweeps():
        for folder, inner, _ in os.walk(sweep.path):
            inner[:] = [name for name in inner if not name.startswith(TEMPORARY)]
            yield from _marked(Path(folder))


def _marked(folder: Path) -> list[Path]:
    """What in ``folder`` is unfinished or damaged by its name."""
    return [folder / name for name in names_in(folder) if name.startswith((TEMPORARY, DAMAGED))]


def find_garbage(store: Store, older_than: float = 0.0) -> list[Garbage]:
    """Runs that nothing refers to, then files that are unfinished (unchanged for an hour) or damaged.

    A run is kept if it is running, a sweep of the store lists it, or a kept run starts from it, directly or not.

    Args:
        store: refresh an object store first: only its mirror is read.
        older_than: seconds; what changed later is kept.

    Raises:
        InputError, RunError: it is unknown what a run starts from, so nothing is safe to remove.
    """
    # First the runs, then the sweeps: a sweep is recorded before its runs are begun.
    names, now = store.names(), store.now()
    kept = _kept(store, names, now - older_than if older_than else None)
    runs = []
    for run in filter(_is_run, (store.run(name) for name in names if name not in kept)):
        size, changed = store.measure(run.name)
        runs.append(Garbage(run.path, run.status(GRACE).state, size, now - changed))
    left, here = [], file_system_time(store.root)
    for path in _leftovers(store, {item.path.name for item in runs}):
        size, changed = measure(path)
        least = older_than if path.name.startswith(DAMAGED) else max(older_than, GRACE)
        if here - changed >= least:
            left.append(Garbage(path, "leftover", size, here - changed))
    return runs + left


def remove_garbage(store: Store, found: Sequence[Garbage]) -> dict[Path, str]:
    """Remove what :func:`find_garbage` found; returns path -> why it is kept after all.

    Works on a full disk. A kill leaves no incomplete run. InputError: the store cannot be written.
    """
    store.refresh(curves=False)
    kept = _kept(store, store.names())
    stay, runs = {}, {}
    for item in found:
        if item.state == "leftover":
            remove_whole(item.path)
        elif item.path.name in kept:
            stay[item.path] = "it was begun again, or a sweep or a run that was begun meanwhile needs it"
        else:
            runs[item.path.name] = item.path
    return stay | {runs[name]: why for name, why in store.remove(list(runs), GRACE).items()}


def _is_run(run: RunDir) -> bool:
    """Whether the folder is a run: a user's other folders and links are not touched."""
    return not run.path.is_symlink() and ((run.path / SPEC).exists() or (run.path / LEASES).is_dir())


def _kept(store: Store, names: Iterable[str], young: float | None = None) -> set[str]:
    """Names that sweeps list, those of ``names`` that run or changed after ``young``, and the runs they start from."""
    kept: set[str] = set()
    for sweep in store.sweeps():
        listed = sweep.runs()
        kept.update(listed)
        if not listed or not all((store.run(name).path / SPEC).exists() for name in listed):
            kept.update(spec.name for spec in all_runs(_planned(sweep, store), drawn=True))
    for name in set(names) - kept:
        run = store.run(name)
        running = run.status(GRACE).state == "running"
        if running or (young is not None and store.measure(name)[1] > young):
            kept.add(name)
    for name in list(kept):
        kept.update(_recorded_starts(store.run(name)))
    return kept


def _planned(sweep: SweepDir, store: Store) -> Iterator[RunSpec]:
    """The runs in a sweep's file: only the file says what a run that was never begun starts from."""
    if not sweep.file.exists():
        return
    try:
        points = read_sweep(sweep.file, (), store).points
        if not {point.spec.name for point in points} >= set(sweep.runs()):
            raise InputError("Its file gives other runs than were recorded, as where an earlier version ran it.")
    except InputError as error:
        raise InputError(
            f"Sweep '{sweep.name}' has runs that were never begun, and what they need is unknown: {error} "
            f"Finish the sweep, or move '{sweep.path}' out of the store."
        ) from error
    for point in points:
        yield point.spec


def _recorded_starts(run: RunDir) -> Iterator[str]:
    """Names of the runs that a run needs or contains, by its recorded spec; none if it was never begun."""
    try:
        recorded = read_json(run.path / SPEC)
    except FileNotFoundError:
        return
    with contextlib.suppress(ValidationError):
        if "kind" in recorded and recorded_name(recorded) == run.name:
            yield from (spec.name for spec in all_runs([read_recorded(recorded)], drawn=True))
            return
    if any(runs_within(recorded)):
        raise RunError(
            f"What run '{run.path}' needs is unknown: its {SPEC} is of another version of rt-scale, or "
            "damaged. Use that version, or move the folder out of the store."
        )
