"""A run and a store that are kept in a folder alone; what an object store does otherwise overrides their methods."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rt_scale.store.atomic import disk_errors, measure, write_bytes
from rt_scale.store.lease import TIMES, Attempt, FileLease, Lease, file_system_time, latest_attempt
from rt_scale.system.files import remove, temporary_name

RUNS, SWEEPS = "runs", "sweeps"
AGAIN = "it was begun again meanwhile"
"""Why a run is not removed after all."""

_pause = time.sleep


class LocalRun:
    """Where a run is kept.

    Attributes:
        folder: of the run on this machine.
        stale: seconds without a heartbeat after which an owner elsewhere counts as gone.
    """

    stale = TIMES.stale

    def __init__(self, folder: Path) -> None:
        """The run in ``folder``."""
        self.folder = folder

    def refresh(self) -> None:
        """Bring here what others wrote: nothing, as a folder is always looked at as it is."""

    def fetch(self, step: int) -> None:
        """Bring the checkpoint of ``step`` here."""

    def acquire(self, watching: Callable[[Attempt], None]) -> Lease:
        """Become the one who writes; see :meth:`RunDir.acquire`."""
        return FileLease(self.folder, watching=watching)

    def send(self) -> None:
        """Send what was written here to where the run is kept."""

    def send_failure(self) -> None:
        """As :meth:`send`, without waiting for a store that is away."""

    def complete(self, path: Path, result: bytes) -> None:
        """Write the result to the file ``path``, after all else was sent."""
        write_bytes(path, result)


class LocalStore:
    """Where a store is kept; see the methods of the same names of :class:`rt_scale.store.store.Store`.

    Attributes:
        root: its folder on this machine.
    """

    def __init__(self, root: Path) -> None:
        """The store in the folder ``root``."""
        self.root = root

    @property
    def place(self) -> str:
        """What ``Store.open`` takes."""
        return str(self.root.absolute())

    def where(self, name: str) -> str:
        """Where a run is, for people."""
        return str(self.root / RUNS / name)

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A place of its own, made by whoever uses it."""
        folder = temporary_name(self.root.absolute() / "scratch")
        try:
            yield str(folder)
        finally:
            remove(folder)

    def run(self, name: str) -> LocalRun:
        """Where the run of that name is kept."""
        return LocalRun(self.root / RUNS / name)

    def refresh(self, curves: bool, younger: float) -> None:
        """Bring here what others wrote."""

    def now(self) -> float:
        """Seconds since 1970 by the clock that dates what is kept."""
        return file_system_time(self.root)

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of a run, and when it last changed."""
        return measure(self.root / RUNS / name)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove runs that nobody executes; of the others, why they stay."""
        folders = {name: self.root / RUNS / name for name in runs}
        stay = {name: "it is being executed" for name in _executed(folders)}
        gone = {name: _remove_run(folder, stale) for name, folder in folders.items() if name not in stay}
        return stay | {name: AGAIN for name, went in gone.items() if not went}

    def put(self, path: Path, data: bytes) -> None:
        """Send what is about to be written to the file ``path`` of the folder."""

    def send(self, path: Path) -> None:
        """Send a file of the folder, or all files of a folder in it."""

    def check_writable(self) -> None:
        """Make sure that what is sent can be written."""


def _executed(runs: Mapping[str, Path]) -> list[str]:
    """Runs whose heartbeat comes while one watches, whatever its date; without owners nothing is waited for."""
    found = ((name, latest_attempt(run)) for name, run in runs.items())
    before = {name: attempt for name, attempt in found if attempt is not None and not attempt.is_gone}
    if before:
        _pause(TIMES.watch)
    after = ((name, latest_attempt(runs[name])) for name in before)
    return [name for name, attempt in after if attempt is not None and attempt.beat != before[name].beat]


def _remove_run(path: Path, stale: float) -> bool:
    """Remove a run that nobody holds; whether that was so."""
    if not path.exists():
        return True
    grave = temporary_name(path)
    with disk_errors(path):
        os.rename(path, grave)
        # Who took the lease just before the folder lost its name gets it back.
        attempt = latest_attempt(grave)
        if attempt is not None and attempt.is_live(stale):
            os.rename(grave, path)
            return False
    remove(grave)
    return True
