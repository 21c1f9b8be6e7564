"""The store: a folder of run directories, named by their specs, and of sweeps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import TEMPORARY, disk_errors, read_json, remove, temporary_name, write_bytes, write_json
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.run_dir import RESULT, SPEC, RunDir, Spec, Status


def default_store_root(given: Path | None = None) -> Path:
    """Where runs are kept: ``given`` (``--store``), else ``RT_SCALE_STORE``, else ``./rt-store``."""
    return given or Path(os.environ.get("RT_SCALE_STORE") or "rt-store")


class SweepDir:
    """What is kept of a sweep: its file as run, the names of its runs, its board and its report.

    Attributes:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.path.name

    @property
    def board(self) -> Path:
        """The folder that TensorBoard opens to compare the sweep's runs."""
        return self.path / "board"

    @property
    def report(self) -> Path:
        """The folder of tables and figures."""
        return self.path / "report"

    @property
    def export(self) -> Path:
        """The folder of exported tables."""
        return self.path / "export"

    @property
    def file(self) -> Path:
        """The sweep file as run."""
        return self.path / "sweep.yaml"

    def write(self, text: str, runs: Iterable[str]) -> None:
        """Record the sweep file's text and the names of its runs, in their order."""
        write_bytes(self.file, text.encode())
        write_json(self.path / "runs.json", list(runs))

    def runs(self) -> list[str]:
        """Names of the sweep's runs; empty where it was never run."""
        try:
            names: list[str] = read_json(self.path / "runs.json")
        except FileNotFoundError:
            return []
        return names


class Store:
    """A folder that keeps runs and sweeps.

    Attributes:
        root: the folder; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def open(place: str | Path) -> Store:
        return Store(Path(place))

    @property
    def place(self) -> str:
        return str(self.root.absolute())

    def run(self, spec: Spec | str) -> RunDir:
        """The directory of the run of ``spec``, or of the run of that name."""
        return RunDir(self.root / "runs" / (spec if isinstance(spec, str) else spec.name))

    def sweep(self, name: str) -> SweepDir:
        """The directory of the sweep ``name``."""
        return SweepDir(self.root / "sweeps" / name)

    def names(self) -> list[str]:
        """Names of the folders of runs, sorted; a folder may hold no run yet."""
        return _folders(self.root / "runs")

    def __iter__(self) -> Iterator[RunDir]:
        """Every run that was begun, by name."""
        for name in self.names():
            run = self.run(name)
            if (run.path / SPEC).exists():
                yield run

    def sweeps(self) -> list[SweepDir]:
        """Every sweep, by name."""
        return [self.sweep(name) for name in _folders(self.root / "sweeps")]

    def status(self, name: str) -> Status:
        """How the run of that name stands; of a finished one no file is opened, which is quick."""
        folder = f"{self.root}/runs/{name}"
        if not os.path.exists(f"{folder}/{RESULT}"):
            return self.run(name).status()
        try:
            # Every attempt leaves its file, whose names alone are asked for here.
            attempts = sum(file.endswith(".json") for file in os.listdir(f"{folder}/{LEASES}"))
        except FileNotFoundError:
            attempts = 0
        return Status("done", attempts)

    def check_writable(self) -> None:
        """Make sure that runs can be kept here, before any work.

        Raises:
            InputError: where the folder cannot be made or written.
            RunError: where the disk is full.
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


def _folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(TEMPORARY) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
