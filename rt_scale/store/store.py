"""The store: a folder of run directories, named by their specs, and of sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import disk_errors, read_json, to_json, write_bytes
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.local import RUNS, SWEEPS, LocalStore
from rt_scale.store.objects.store import FILE, LIST, OVERRIDES, ObjectStore
from rt_scale.store.objects.uri import is_address
from rt_scale.store.run_dir import RESULT, SPEC, RunDir, RunStatus, Spec
from rt_scale.system.files import TEMPORARY, remove, temporary_name


class SweepDir:
    """What is kept of a sweep: its file as run, the names of its runs, its board and its report.

    Attributes:
        path: the folder; it need not exist.
        derived: the folder of what is made of its runs, and can be made again: this one, or one elsewhere.
    """

    def __init__(self, path: Path, backend: LocalStore | None = None, derived: Path | None = None) -> None:
        """The sweep in the folder ``path`` of the store that ``backend`` keeps; None: there alone."""
        self.path, self._backend = path, backend or LocalStore(path)
        self.derived = derived or path

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

    def record(self, name: str, value: Any) -> None:
        """Keep a JSON-able ``value`` as the file ``name`` of the sweep, which everybody who sees the store sees."""
        self._put(self.path / name, to_json(value))

    def _put(self, path: Path, data: bytes) -> None:
        self._backend.put(path, data)
        write_bytes(path, data)

    def send(self, path: Path) -> None:
        """Send what was written at ``path``, a file or folder of the sweep's, to where the store is kept.

        What is derived elsewhere stays there.

        Raises:
            InputError, RunError: where an object store refuses or does not answer.
        """
        if self.derived == self.path:
            self._backend.send(path)

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
    """A folder that keeps runs and sweeps, or such a folder in an object store and this machine's mirror of it.

    Attributes:
        root: the folder; it need not exist.
        derived: where reports, exports and comparison views go, a folder a sweep; None: beside the sweeps.
    """

    def __init__(self, root: Path, backend: LocalStore | None = None, derived: Path | None = None) -> None:
        """The store in the folder ``root``, kept by ``backend``; None: there alone."""
        self.root, self.derived = root, derived
        self._backend = backend or LocalStore(root)

    @staticmethod
    def open(place: str | Path) -> Store:
        """The store at a place as a user names it: a folder, ``s3://``, ``gs://`` or ``az://bucket/prefix``.

        Raises:
            InputError: an address that holds credentials, or that nothing here can open.
        """
        if not is_address(place):
            return Store(Path(place))
        backend = ObjectStore.open(str(place))
        return Store(backend.root, backend)

    @property
    def place(self) -> str:
        """What :meth:`open` takes in another process: the address, or the folder's whole path."""
        return self._backend.place

    def where(self, name: str) -> str:
        """Where the run of that name is kept, for people to read: the path of its directory, or its address."""
        return self._backend.where(name)

    def scratch(self) -> AbstractContextManager[str]:
        """A place of its own in the store, path or address, that all processes see; removed afterwards."""
        return self._backend.scratch()

    def run(self, spec: Spec | str) -> RunDir:
        """The directory of the run of ``spec``, or of the run of that name."""
        name = spec if isinstance(spec, str) else spec.name
        return RunDir(self.root / RUNS / name, self._backend.run(name))

    def sweep(self, name: str) -> SweepDir:
        """The directory of the sweep ``name``."""
        return SweepDir(self.root / SWEEPS / name, self._backend, self.derived and self.derived / name)

    def deriving(self, folder: Path) -> Store:
        """The same store, of which reports, exports and comparison views are written to ``folder``."""
        return Store(self.root, self._backend, folder)

    def refresh(self, *, curves: bool = True, younger: float = 0.0) -> None:
        """Look at what an object store has by now; a folder is always looked at as it is.

        Args:
            curves: whether metrics and event files are wanted, too.
            younger: seconds within which the last look is good enough.

        Raises:
            InputError, RunError: where the store refuses or does not answer.
        """
        self._backend.refresh(curves, younger)

    def now(self) -> float:
        """Seconds since 1970 by the clock that dates what is kept here: a server's may differ from ours."""
        return self._backend.now()

    def measure(self, name: str) -> tuple[int, float]:
        """Bytes of the run of that name where it is kept, and when it last changed, in seconds since 1970."""
        return self._backend.measure(name)

    def remove(self, runs: Sequence[str], stale: float) -> dict[str, str]:
        """Remove the runs of these names unless they are being executed.

        Args:
            runs: names.
            stale: seconds without a heartbeat after which an owner elsewhere counts as gone.

        Returns:
            name -> why it stays after all.
        """
        return self._backend.remove(runs, stale)

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
        self._backend.check_writable()
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


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(TEMPORARY) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
