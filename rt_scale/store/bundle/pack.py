"""Writes sweeps of a store as one file, a bundle; see ``bundle.format``."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rt_scale import __version__
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec, all_runs, recorded_name
from rt_scale.store.atomic import read_json, replacing, to_json
from rt_scale.store.bundle.format import FORMAT, MANIFEST, RUN_FILES, WEIGHTS, File, Manifest, Weights, is_member
from rt_scale.store.checkpoints import MANIFEST as CHECKPOINT
from rt_scale.store.checkpoints import FileSum
from rt_scale.store.lease import FOLDER as LEASES
from rt_scale.store.run_dir import ARTIFACTS, CHECKPOINTS, EVENTS, RESULT, SPEC, RunDir, State
from rt_scale.store.store import FILE, LIST, OVERRIDES, Store, SweepDir
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names
from rt_scale.system.files import TEMPORARY

_TEACHER = "teacher.safetensors"
_Source = Path | bytes


@dataclass(frozen=True)
class Packed:
    """A written bundle: its file, the file's size in bytes and SHA-256, and its manifest."""

    path: Path
    size: int
    sha256: str
    manifest: Manifest


@dataclass
class _Writer:
    """Adds members to a tar file, and records the added ``files`` and, in ``notes``, what could not be added."""

    archive: tarfile.TarFile
    files: dict[str, File] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_all(self, members: Mapping[str, _Source]) -> None:
        """Add members by name; note those that were removed meanwhile."""
        for name in sorted(members):
            if not is_member(name):
                self.notes.append(f"{name} is left out: it has no name that a bundle takes.")
                continue
            source = members[name]
            try:
                data = source if isinstance(source, bytes) else source.read_bytes()
            except FileNotFoundError:
                self.notes.append(f"{name} is left out: it was removed while the bundle was made.")
                continue
            except OSError as error:
                raise RunError(
                    f"'{source!s}' cannot be read: {error.strerror}. Check that disk, then pack again."
                ) from error
            self.files[name] = self.add(name, data)

    def add(self, name: str, data: bytes) -> File:
        """Add one member."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self.archive.addfile(info, io.BytesIO(data))
        return File(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def finish(self, made: dict[str, str], weights: Weights, sweeps: list[str], runs: dict[str, State]) -> Manifest:
        """Add the manifest, which comes last."""
        manifest = Manifest(
            format=FORMAT, rt_scale=__version__, made=made, weights=weights,
            sweeps=sweeps, runs=runs, notes=self.notes, files=self.files,
        )  # fmt: skip
        self.add(MANIFEST, to_json(manifest.model_dump(mode="json")))
        return manifest


def pack(
    path: Path,
    store: Store,
    sweeps: Sequence[SweepRuns],
    *,
    weights: Weights = "none",
    made: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write sweeps, their runs, finished or not, and the runs that these start from into the file ``path``.

    Args:
        path: replaced atomically.
        store: refresh an object store first.
        sweeps: with distinct names, in the order in which a reader shows them.
        weights: ``final``: the newest checkpoint's and a frozen teacher's. Pickled files are never added.
        made: how the bundle is made, for its readers.
        progress: called with (runs done, runs).

    Raises:
        InputError: two sweeps have one name, no run was begun, or ``path`` cannot be written.
        RunError: a file cannot be read, or the disk is full.
    """
    specs = sorted(all_runs(point.spec for sweep in sweeps for point in sweep.points), key=lambda spec: spec.name)
    _refuse(store, sweeps, specs)
    level = 6 if weights == "none" else 0  # weights cannot be made smaller
    with (
        replacing(path) as file,
        gzip.GzipFile("", "wb", level, file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        writer = _Writer(archive)
        states: dict[str, State] = {}
        for number, spec in enumerate(specs):
            progress(number, len(specs))
            states[spec.name] = _pack_run(writer, store, store.run(spec), weights)
        progress(len(specs), len(specs))
        for sweep in sorted(sweeps, key=lambda sweep: sweep.name):
            _pack_sweep(writer, store.sweep(sweep.name), sweep)
        manifest = writer.finish(dict(made or {}), weights, [sweep.name for sweep in sweeps], states)
    with open(path, "rb") as written:
        return Packed(path, path.stat().st_size, hashlib.file_digest(written, "sha256").hexdigest(), manifest)


def _refuse(store: Store, sweeps: Sequence[SweepRuns], specs: Sequence[RunSpec]) -> None:
    refuse_equal_names(sweeps, "packed together")
    if all(store.status(spec.name).state == "missing" for spec in specs):
        raise InputError(
            f"None of the {len(specs)} runs was begun in '{store.place}', so there is nothing to pack. Run them with "
            "'rt-scale sweep', or name the store with --store."
        )


def _pack_run(writer: _Writer, store: Store, run: RunDir, weights: Weights) -> State:
    """Add a run and return its state."""
    prefix = f"runs/{run.name}"
    # Listed before anything is read: a result that is listed here has all of its metrics.
    there = _files(run.path)
    state = store.status(run.name).state
    leases = [name for name in _files(run.path / LEASES) if name.endswith(".json")]
    # Lease files are added empty: their names give the number of attempts, their contents (host, process) are private.
    members: dict[str, _Source] = {f"{prefix}/{LEASES}/{name}": b"" for name in leases}
    if SPEC in there and _names_its_folder(writer, run):
        wanted = [name for name in there if name in RUN_FILES or name.startswith(EVENTS)]
        wanted += [f"{ARTIFACTS}/{name}" for name in _files(run.artifacts)]
        members |= {f"{prefix}/{name}": run.path / name for name in wanted}
        members |= _weights(writer, run, weights)
    writer.add_all(members)
    return "partial" if state == "done" and RESULT not in there else state


def _names_its_folder(writer: _Writer, run: RunDir) -> bool:
    try:
        if recorded_name(read_json(run.path / SPEC)) == run.name:
            return True
    except (RunError, KeyError, TypeError):
        pass
    writer.notes.append(f"Run {run.name} is left out: its {SPEC} was edited or is damaged.")
    return False


def _weights(writer: _Writer, run: RunDir, weights: Weights) -> dict[str, _Source]:
    """The weights in a run's checkpoints, each checkpoint with a manifest of its members."""
    members: dict[str, _Source] = {}
    steps = [] if weights == "none" else run.checkpoints.steps()
    newest: dict[str, FileSum] = {}
    for step in reversed(steps):
        if weights == "final" and newest and step != steps[0]:
            continue
        try:
            run.checkpoints.read(step, lambda folder: None)  # downloads it from an object store
            files: dict[str, FileSum] = read_json(run.checkpoints.folder / str(step) / CHECKPOINT)["files"]
        except (RunError, FileNotFoundError) as error:
            writer.notes.append(f"Run {run.name}, step {step}: {error}")
            continue
        files = {name: file for name, file in files.items() if name.endswith(WEIGHTS)}
        if weights == "final" and newest:
            files = {name: file for name, file in files.items() if name == _TEACHER and name not in newest}
        newest = newest or files
        folder = f"{CHECKPOINTS}/{step}"
        if files:
            members[f"runs/{run.name}/{folder}/{CHECKPOINT}"] = to_json({"step": step, "files": files})
            members |= {f"runs/{run.name}/{folder}/{name}": run.path / folder / name for name in files}
    return members


def _pack_sweep(writer: _Writer, kept: SweepDir, sweep: SweepRuns) -> None:
    """Add a sweep's file, the records of its search and its rule, and its report."""
    prefix = f"sweeps/{sweep.name}"
    now = (sweep.text, list(sweep.overrides))
    if kept.file.exists() and (kept.file.read_text(encoding="utf-8"), kept.overrides()) != now:
        writer.notes.append(f"Sweep {sweep.name} was last run with another file; it is packed with the one given.")
    records = [name for name in _files(kept.path) if name.endswith(".json")]
    members: dict[str, _Source] = {f"{prefix}/{name}": kept.path / name for name in records}
    for folder in (Path(each) for each, _, _ in os.walk(kept.report)):
        inside = folder.relative_to(kept.path).as_posix()
        members |= {f"{prefix}/{inside}/{name}": folder / name for name in _files(folder)}
    members[f"{prefix}/{FILE}"] = sweep.text.encode()
    members[f"{prefix}/{OVERRIDES}"] = to_json(list(sweep.overrides))
    members[f"{prefix}/{LIST}"] = to_json([point.spec.name for point in sweep.points])
    writer.add_all(members)


def _files(folder: Path) -> list[str]:
    """Sorted names of the files in ``folder``, except links and temporary ones; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith(TEMPORARY)
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
