"""What killed processes left unfinished in a store, and what was damaged and set aside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rt_scale.store.atomic import TEMPORARY
from rt_scale.store.checkpoints import DAMAGED
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.run_dir import CHECKPOINTS
from rt_scale.store.store import Store

FORMER = "constants"
"""The folder in which versions before December 2026 kept probes and features that runs shared; nothing reads it."""


def leftovers(store: Store, doomed: set[str], grace: float) -> Iterator[Path]:
    """Temporary files and folders, damaged checkpoints, and what no version reads any more.

    Args:
        store: where to look.
        doomed: names of runs that go as a whole.
        grace: seconds for which a silent owner elsewhere counts as at work; what is in its folder is left out.
    """
    yield from _marked(store.root)
    yield from _marked(store.root / "runs")
    for name in store.names():
        if name in doomed:
            continue
        run = store.run(name)
        found = [path for folder in ("", LEASES, CHECKPOINTS) for path in _marked(run.path / folder)]
        if found and run.status(grace).state != "running":
            yield from found
    if (store.root / FORMER).is_dir():
        yield store.root / FORMER
    yield from _marked(store.root / "sweeps")
    for sweep in store.sweeps():
        for folder, inner, _ in os.walk(sweep.path):
            inner[:] = [name for name in inner if not name.startswith(TEMPORARY)]
            yield from _marked(Path(folder))


def _marked(folder: Path) -> list[Path]:
    """What stands in ``folder`` and is unfinished or damaged, by its name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name.startswith((TEMPORARY, DAMAGED)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def measure(path: Path) -> tuple[int, float]:
    """Bytes in the files under ``path`` and when the newest changed, in seconds since 1970; links are not followed."""
    files = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    size, changed = 0, 0.0
    for file in files or [path]:
        try:
            found = file.lstat()
        except FileNotFoundError:  # its owner is at work
            continue
        size += found.st_size if not file.is_dir() else 0
        changed = max(changed, found.st_mtime)
    return size, changed
