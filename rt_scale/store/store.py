"""The store: a folder of run directories, named by their specs, and of sweeps."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import disk_errors, measure, read_json, to_json, write_bytes
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.lease import TIMES, file_system_time, latest_attempt
from rt_scale.store.run_dir import RESULT, RUNS, SPEC, RunDir, RunStatus, Spec
from rt_scale.system.files import TEMPORARY, remove, temporary_name

SWEEPS = "sweeps"
FILE, OVERRIDES, LIST = "sweep.yaml", "overrides.json", "runs.json"
AGAIN = "it was begun again meanwhile"
"""Why a run is not removed after all."""

_pause = time.sleep


class SweepDir:
    """What is kept of a sweep: its file as run, the names of its runs, its board and its report.

    Attributes:
        path: the folder; it need not exist.
        derived: the folder of what is made of its runs, and can be made again: this one, or one elsewhere.
    """

    def __init__(self, path: Path, store: Store | None = None) -> None:
        """The sweep in the folder ``path`` of ``store``; None: of a store in a folder."""
        self.path, self._store = path, store or Store(path.parent.parent)
        derived = self._store.derived
        self.derived = path if derived is None else derived / path.name

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def board(self) -> Path:
        """The folder that TensorBoard opens to compare the sweep's runs."""
        return self.derived / "board"

    @property
    def report(self) -> Path:
        """The folder of tables and figures."""
        return self.derived / "report"

    @property
    def export(self) -> Path:
        """The folder of exported tables."""
        return self.derived / "export"

    @property
    def file(self) -> Path:
        """The sweep file as run."""
        return self.path / FILE

    def write(self, text: str, runs: Iterable[str], overrides: Sequence[str] = ()) -> None:
        """Record the sweep file's text, the ``--set`` assignments to it, and the names of its runs, in their order."""
        self.record(OVERRIDES, list(overrides))
        self._put(self.file, text.encode())
        self.record(LIST, list(runs))

    def overrides(self) -> list[str]:
        """The ``--set`` assignments that the sweep was run with."""
        return self._list(OVERRIDES)

    def record(self, name: str, value: object) -> None:
        """Keep a JSON-able ``value`` as the file ``name`` of the sweep, which everybody who sees the store sees."""
        self._put(self.path / name, to_json(value))

    def _put(self, path: Path, data: bytes) -> None:
        self._store.put(path, data)
        write_bytes(path, data)

    def send(self, path: Path) -> None:
        """Send what was written at ``path``, a file or folder of the sweep's, to where the store is kept.

        What is derived elsewhere stays there.

        Raises:
            InputError, RunError: where an object store refuses or does not answer.
        """
        if self.derived == self.path:
            self._store.send(path)

    def runs(self) -> list[str]:
        """Names of the sweep's runs; empty where it was never run."""
        return self._list(LIST)

    def _list(self, name: str) -> list[str]:
        try:
            found: list[str] = read_json(self.path / name)
        except FileNotFoundError:
            return []
        return found


class Store:
    """A folder that keeps runs and sweeps; an object store with its mirror is the subclass ``ObjectStore``.

    Attributes:
        root: the folder; it need not exist.
        derived: where reports, exports and comparison views go, a folder a sweep; None: beside the sweeps.
    """

    def __init__(self, root: Path, derived: Path | None = None) -> None:
        """The store in the folder ``root``."""
        self.root, self.derived = root, derived

    @property
    def place(self) -> str:
        """What ``open_place`` takes in another process: the address, or the folder's whole path."""
        return str(self.root.absolute())

    def where(self, name: str) -> str:
        """Where the run of that name is kept, for people to read: the path of its directory, or its address."""
        return str(self.root / RUNS / name)

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A place of its own in the store, path or address, that all processes see; removed afterwards."""
        folder = temporary_name(self.root.absolute() / "scratch")
        try:
            yield str(folder)
        finally:
            remove(folder)

    def run(self, spec: Spec | str) -> RunDir:
        """The directory of the run of ``spec``, or of the run of that name."""
        return RunDir(self.root / RUNS / (spec if isinstance(spec, str) else spec.name))

    def sweep(self, name: str) -> SweepDir:
        """The directory of the sweep ``name``."""
        return SweepDir(self.root / SWEEPS / name, self)

    def deriving(self, folder: Path) -> Self:
        """The same store, of which reports, exports and comparison views are written to ``folder``."""
        other = copy.copy(self)
        other.derived = folder
        return other

    def refresh(self, *, curves: bool = True, younger: float = 0.0) -> None:
        """Look at what an object store has by now; a folder is always looked at as it is.

        Args:
            curves: whether metrics and event files are wanted, too.
            younger: seconds within which the last look is good enough.

        Raises:
            InputError, RunError: where the store refuses or does not answer.
        """

    def now(self) -> float:
        """Seconds since 1970 by the clock that dates what is kept here: a server's may differ from ours."""
        return file_system_time(self.root)

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run of that name where it is kept, and when it last changed, in seconds since 1970."""
        return measure(self.root / RUNS / name)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove the runs of these names unless they are being executed.

        Args:
            runs: names.
            stale: seconds without a heartbeat after which an owner elsewhere counts as gone.

        Returns:
            name -> why it stays after all.
        """
        folders = {name: self.root / RUNS / name for name in runs}
        stay = {name: "it is being executed" for name in _executed(folders)}
        gone = {name: _remove_run(folder, stale) for name, folder in folders.items() if name not in stay}
        return stay | {name: AGAIN for name, went in gone.items() if not went}

    def put(self, path: Path, data: bytes) -> None:
        """Send what is about to be written to the file ``path`` of the folder."""

    def send(self, path: Path) -> None:
        """Send a file of the folder, or all files of a folder in it."""

    def names(self) -> list[str]:
        """Names of the folders of runs, sorted; a folder may hold no run yet."""
        return _folders(self.root / RUNS)

    def __iter__(self) -> Iterator[RunDir]:
        """Every run that was begun, by name."""
        for name in self.names():
            run = self.run(name)
            if (run.path / SPEC).exists():
                yield run

    def sweeps(self) -> list[SweepDir]:
        """Every sweep, by name."""
        return [self.sweep(name) for name in _folders(self.root / SWEEPS)]

    def status(self, name: str) -> RunStatus:
        """How the run of that name stands; of a finished one no file is opened, which is quick."""
        folder = f"{self.root}/{RUNS}/{name}"
        if not os.path.exists(f"{folder}/{RESULT}"):
            return self.run(name).status()
        try:
            # Every attempt leaves its file, whose names alone are asked for here.
            attempts = sum(file.endswith(".json") for file in os.listdir(f"{folder}/{LEASES}"))
        except FileNotFoundError:
            attempts = 0
        return RunStatus("done", attempts)

    def check_writable(self) -> None:
        """Make sure that runs can be kept here, before any work.

        Raises:
            InputError: where the folder cannot be made or written.
            RunError: where the disk is full, or an object store does not answer.
        """
        probe = temporary_name(self.root / "probe")
        with disk_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(b"rt-scale" * 512)
            except FileNotFoundError as error:
                raise InputError(
                    f"'{self.root}' cannot be made: no folders can be made there. Choose another store with "
                    "--store or RT_SCALE_STORE."
                ) from error
            finally:
                remove(probe)


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


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(TEMPORARY) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
