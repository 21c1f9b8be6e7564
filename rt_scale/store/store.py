"""The store: a folder of run directories and sweeps."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from rt_scale.spec.errors import InputError, shortened
from rt_scale.store.atomic import disk_errors, measure, read_json, to_json, write_bytes
from rt_scale.store.lease import TIMES, attempts_at, file_system_time, latest_attempt
from rt_scale.store.run_dir import RESULT, RUNS, SPEC, RunDir, RunStatus, Spec
from rt_scale.system.files import TEMPORARY, remove, temporary_name

SWEEPS = "sweeps"
FILE, OVERRIDES, LIST, PREEMPTED = "sweep.yaml", "overrides.json", "runs.json", "preempted.json"
AGAIN = "it was begun again meanwhile"

_pause = time.sleep


@dataclass(frozen=True)
class Preemptions:
    """How often a run lost its node, and how the last time."""

    times: int
    why: str

    def __str__(self) -> str:
        return self.why + (f" ({self.times} times so far)" if self.times > 1 else "")


class SweepDir:
    """A sweep's folder: its file as run, the names of its runs, its TensorBoard view and its report.

    Attributes:
        path, name: the folder, which need not exist, and its name.
        file: the sweep file as run.
        derived: the folder of everything computed from the runs: ``path``, or another.
        board: the folder that TensorBoard opens to compare the sweep's runs.
        report, export: the folders of tables and figures, and of exported tables.
    """

    def __init__(self, path: Path, store: Store | None = None) -> None:
        """The sweep in the folder ``path`` of ``store``; None: the store is a folder too."""
        self.path, self.name, self.file = path, path.name, path / FILE
        self._store = store or Store(path.parent.parent)
        self.derived = path if self._store.derived is None else self._store.derived / path.name
        self.board, self.report, self.export = (self.derived / each for each in ("board", "report", "export"))

    def write(self, text: str, runs: Iterable[str], overrides: Sequence[str] = ()) -> None:
        """Record the sweep file's text, its ``--set`` assignments, and the names of its runs in order."""
        self.record(OVERRIDES, list(overrides))
        self._put(self.file, text.encode())
        self.record(LIST, list(runs))

    def overrides(self) -> list[str]:
        """The ``--set`` assignments of the last run."""
        return self._list(OVERRIDES)

    def record(self, name: str, value: object) -> None:
        """Write ``value`` (plain JSON types) as the sweep's file ``name``, also to an object store."""
        self._put(self.path / name, to_json(value))

    def preemptions(self) -> dict[str, Preemptions]:
        """How often the sweep's runs lost their nodes, by the run's name; those that never did are not in it."""
        try:
            return TypeAdapter(dict[str, Preemptions]).validate_json((self.path / PREEMPTED).read_bytes())
        except (OSError, ValidationError):
            return {}

    def add_preemption(self, run: str, why: str) -> None:
        """Record that the run of that name lost its node, for people; the newest of several drivers is kept."""
        found = self.preemptions()
        found[run] = Preemptions(times=found[run].times + 1 if run in found else 1, why=why)
        self.record(PREEMPTED, {name: asdict(each) for name, each in found.items()})

    def _put(self, path: Path, data: bytes) -> None:
        self._store.put(path, data)
        write_bytes(path, data)

    def send(self, path: Path) -> None:
        """Upload ``path``, a file or folder of the sweep, unless ``derived`` is another folder.

        InputError, RunError: an object store refuses or does not answer.
        """
        if self.derived == self.path:
            self._store.send(path)

    def runs(self) -> list[str]:
        """Names of the sweep's runs; empty if it was never run."""
        return self._list(LIST)

    def _list(self, name: str) -> list[str]:
        try:
            found: list[str] = read_json(self.path / name)
        except FileNotFoundError:
            return []
        return found


class Store:
    """A folder of runs and sweeps; the subclass ``ObjectStore`` is an object store with its mirror.

    Attributes:
        root: the folder; it need not exist.
        derived: where reports, exports and comparison views go, one folder per sweep; None: beside the sweeps.
    """

    def __init__(self, root: Path, derived: Path | None = None) -> None:
        """The store in the folder ``root``."""
        self.root, self.derived = root, derived

    @property
    def place(self) -> str:
        """What ``open_place`` takes in another process: the address, or the folder's absolute path."""
        return str(self.root.absolute())

    def where(self, name: str) -> str:
        """Path or address of the run of that name, for people."""
        return str(self.root / RUNS / name)

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A temporary path or address in the store that all processes can access; removed afterwards."""
        folder = temporary_name(self.root.absolute() / "scratch")
        try:
            yield str(folder)
        finally:
            remove(folder)

    def run(self, spec: Spec | str) -> RunDir:
        """The directory of a run, given by its spec or its name."""
        return RunDir(self.root / RUNS / (spec if isinstance(spec, str) else spec.name))

    def sweep(self, name: str) -> SweepDir:
        """The directory of the sweep ``name``."""
        return SweepDir(self.root / SWEEPS / name, self)

    def deriving(self, folder: Path) -> Self:
        """The same store with reports, exports and comparison views in ``folder``."""
        other = copy.copy(self)
        other.derived = folder
        return other

    def refresh(self, *, curves: bool = True, events: bool = True, younger: float = 0.0) -> None:
        """Download what changed in an object store; a folder needs no download.

        ``curves``: also metrics, artifacts and, if ``events``, the event files of TensorBoard.
        ``younger``: do nothing if the last refresh is less than this many seconds ago. InputError, RunError: the store
        refuses or does not answer.
        """

    def refresh_sweeps(self) -> None:
        """As :meth:`refresh`, only what is recorded of sweeps."""

    def tidy(self) -> None:
        """Make later looks at an object store cheap; InputError, RunError: the store refuses or does not answer."""

    def now(self) -> float:
        """Seconds since 1970 by the store's clock: a server's may differ from ours."""
        return file_system_time(self.root)

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run of that name, and when it last changed, in seconds since 1970."""
        return measure(self.root / RUNS / name)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove the runs of these names unless they are running; returns name -> why it is kept after all.

        ``stale``: seconds without a heartbeat after which an owner on another machine counts as ended.
        """
        folders = {name: self.root / RUNS / name for name in runs}
        stay = {name: "it is being executed" for name in _executed(folders)}
        gone = {name: _remove_run(folder, stale) for name, folder in folders.items() if name not in stay}
        return stay | {name: AGAIN for name, went in gone.items() if not went}

    def put(self, path: Path, data: bytes) -> None:
        """Upload ``data``, which is about to be written to the file ``path``."""

    def send(self, path: Path) -> None:
        """Upload a file of the store, or all files of a folder in it."""

    def find(self, given: str) -> str | None:
        """The name of the run that is, or alone begins with, ``given``, with its kind or without; None if none does.

        InputError: several begin with it.
        """
        names = self.names()
        found = [name for name in names if name.startswith(given) or name.partition("-")[2].startswith(given)]
        if len(found) > 1 and given not in names:
            raise InputError(
                f"'{given}' is the beginning of {len(found):,} runs: {shortened(found)}. Give more of the name."
            )
        return given if given in names else next(iter(found), None)

    def names(self) -> list[str]:
        """Sorted names of run folders, including runs that were never begun."""
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
        """Status of the run of that name; of one that is done without Path, which is slow for 100,000 runs."""
        folder = f"{self.root}/{RUNS}/{name}"
        if os.path.exists(f"{folder}/{RESULT}"):
            return RunStatus("done", attempts_at(folder))
        return self.run(name).status()

    def check_writable(self) -> None:
        """Make sure, before any work, that the store can be written.

        Raises:
            InputError: the folder cannot be created or written.
            RunError: the disk is full, or an object store does not answer.
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
    """Runs with a new heartbeat within ``TIMES.watch`` seconds; returns at once if no run has an owner."""
    found = ((name, latest_attempt(run)) for name, run in runs.items())
    before = {name: attempt for name, attempt in found if attempt is not None and not attempt.is_gone}
    if before:
        _pause(TIMES.watch)
    after = ((name, latest_attempt(runs[name])) for name in before)
    return [name for name, attempt in after if attempt is not None and attempt.beat != before[name].beat]


def _remove_run(path: Path, stale: float) -> bool:
    """Remove a run unless a process holds it; whether it was removed."""
    if not path.exists():
        return True
    temporary = temporary_name(path)
    with disk_errors(path):
        os.rename(path, temporary)
        # A process may have taken the lease just before the rename; then the folder gets its name back.
        attempt = latest_attempt(temporary)
        if attempt is not None and attempt.is_live(stale):
            os.rename(temporary, path)
            return False
    remove(temporary)
    return True


def _folders(folder: Path) -> list[str]:
    """Sorted names of the folders in ``folder``; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(TEMPORARY) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
