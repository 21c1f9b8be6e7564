"""The Python API: specs are loaded, runs and sweeps executed or opened, and their networks used.

Errors are those of the command line, in the same words: InputError for what is refused before any work, RunError for
what failed. Ctrl-C in a run or sweep has a checkpoint written and raises KeyboardInterrupt; the same call resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rt_scale.spec.errors import InputError, counted, shown, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from rt_scale.experiments.embedding import Images, RunInputs
    from rt_scale.models.encoder import Encoder
    from rt_scale.models.networks import Network
    from rt_scale.spec.run import RunSpec
    from rt_scale.store.results import RunResult
    from rt_scale.store.run_dir import RunDir, RunStatus
    from rt_scale.store.store import Store as KeptStore
    from rt_scale.store.sweep_runs import SweepRuns

Place = str | PathLike[str]
Role = Literal["student", "teacher", "init"]


def load(spec: Place | Mapping[str, object], changes: Mapping[str, object] | None = None) -> RunSpec:
    """A spec from a YAML file, or from a mapping of the same form, with dotted fields changed.

    Args:
        changes: e.g. ``{"student.alpha": 0.5}``, as ``--set`` on the command line.

    InputError: the file, a field or a value is not valid; the message names what is allowed.
    """
    from rt_scale.spec.sweep import load_run, run_of
    from rt_scale.system.paths import user_path

    if isinstance(spec, Mapping):
        return run_of(spec, "The spec", _assignments(changes), execute=True)
    return load_run(user_path(str(spec)), _assignments(changes))


def _assignments(changes: Mapping[str, object] | None) -> list[str]:
    """The ``key=value`` assignments of the command line; JSON is YAML."""
    try:
        return [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]
    except TypeError as error:
        raise InputError(f"{shown(changes)} holds a value that YAML cannot hold: {error}.") from None


def run(
    spec: RunSpec,
    store: Place | None = None,
    *,
    data_dir: Place | None = None,
    device: str = "auto",
    threads: int | None = None,
    loader: str = "auto",
    accelerate: str = "auto",
    cache_teacher: bool | None = None,
    yes: bool = False,
    progress: bool = True,
) -> Run:
    """The run of ``spec``: read if it is finished, resumed if it was begun, else computed in this process.

    Nothing but ``spec`` changes its numbers, beyond rounding.

    Args:
        store: folder or address (s3://...); RT_SCALE_STORE, else ./rt-store.
        data_dir: folder of prepared data; RT_SCALE_DATA, else the user's cache.
        device, threads, loader, accelerate, cache_teacher, yes: see ``rt-scale run --help``.
        progress: whether to show a progress bar, in a terminal or notebook, or lines elsewhere.

    Raises:
        InputError: the spec cannot be run here, or a live process is running it.
        RunError: the run failed; its directory keeps the reason and the checkpoints.
        KeyboardInterrupt: it was stopped, after a checkpoint.
    """
    from rt_scale.experiments.embedding import settings_kept
    from rt_scale.experiments.options import Observer, Options, Silent
    from rt_scale.experiments.runner import run as run_spec
    from rt_scale.progress.bars import RunBar
    from rt_scale.spec.grid import refuse_large_runs
    from rt_scale.system.console import PlainConsole
    from rt_scale.system.signals import stopping_on_signals

    if not yes:
        refuse_large_runs([spec], "pass yes=True")
    opened = open_store(store, data_dir=data_dir)
    with ExitStack() as stack:
        observer: Observer = stack.enter_context(RunBar(PlainConsole(soft_wrap=True))) if progress else Silent()
        stopping = stack.enter_context(stopping_on_signals(observer.warned))
        stack.enter_context(settings_kept())
        options = Options(
            store=opened.kept, data_dir=opened.data_dir, device=device, threads=threads, loader=loader,
            accelerate=accelerate, cache_teacher=cache_teacher, observer=observer, stop=stopping,
        )  # fmt: skip
        run_spec(spec, options)
    return opened.run(spec.name)


def sweep(
    file: Place,
    changes: Mapping[str, object] | None = None,
    store: Place | None = None,
    *,
    data_dir: Place | None = None,
    device: str = "auto",
    address: str | None = None,
    concurrency: int | None = None,
    launch: Mapping[str, object] | None = None,
    retry_failed: bool = False,
    yes: bool = False,
    progress: bool = True,
) -> Sweep:
    """The sweep in a file, after its unfinished runs were executed through Ray Tune, as ``rt-scale sweep`` does it.

    A run that fails does not end the others: see ``Sweep.failed``. Meanwhile file descriptors 1 and 2 of this process
    are a log in the sweep's folder; the progress is on the standard output of before.

    Args:
        file: a sweep file (YAML), or the name of one that comes with rt-scale, e.g. ``demo``.
        changes: dotted fields of its base; a list replaces the values of an axis.
        store, data_dir, progress: as of :func:`run`.
        launch: fields in place of those of the file's launch section, e.g. ``{"cpus": 2}``.
        device, address, concurrency, retry_failed, yes: see ``rt-scale sweep --help``.

    Raises:
        InputError: the file, data, device or resources are not as they must be, or the cluster does not answer.
        KeyboardInterrupt: it was stopped, after checkpoints; the same call continues.
    """
    from rt_scale.ray_backend.terminal import run_shown
    from rt_scale.scheduler.job import Where
    from rt_scale.spec.document import build
    from rt_scale.spec.explore import MOST_RUNS
    from rt_scale.spec.grid import GRID_LIMIT, refuse_large_runs
    from rt_scale.spec.sweep import LaunchSpec
    from rt_scale.store.sweep_runs import read_sweep
    from rt_scale.system.paths import user_path

    opened = open_store(store, data_dir=data_dir)
    most = MOST_RUNS if yes else GRID_LIMIT
    swept = read_sweep(user_path(str(file)), _assignments(changes), opened.kept, most, execute=True)
    if not yes:
        refuse_large_runs((point.spec for point in swept.grid), "pass yes=True")
    if launch:
        section = build(LaunchSpec, {**swept.spec.launch.model_dump(), **launch}, "launch")
        swept = replace(swept, spec=swept.spec.model_copy(update={"launch": section}))
    where = Where(opened.kept, opened.data_dir, device, address, concurrency, retry_failed, replace=yes)
    (outcome,) = run_shown([swept], where, show=progress)
    return Sweep(swept, opened.data_dir, outcome.failed)


def open_store(store: Place | None = None, *, data_dir: Place | None = None) -> Store:
    """The store in a folder or at an address (s3://bucket/prefix); RT_SCALE_STORE, else ./rt-store.

    Args:
        data_dir: folder of prepared data, for what the runs opened here need of it; RT_SCALE_DATA, else the user's
            cache.

    InputError: the address is not valid, or the object store refuses.
    """
    from rt_scale.data.meta import default_data_dir
    from rt_scale.store.objects.store import open_place
    from rt_scale.store.objects.uri import default_place

    folder = default_data_dir(None if data_dir is None else Path(data_dir))
    return Store(open_place(default_place(None if store is None else str(store))), folder)


class Store:
    """A store, with its runs.

    Attributes:
        kept: the folder or object store itself.
        data_dir: the folder of prepared data.
    """

    def __init__(self, kept: KeptStore, data_dir: Path) -> None:
        self.kept, self.data_dir = kept, data_dir

    def __repr__(self) -> str:
        return f"Store({self.kept.place!r})"

    @property
    def runs(self) -> list[Run]:
        """Every run that was begun, by name."""
        self.kept.refresh(curves=False)
        return [Run(run_dir, self.data_dir) for run_dir in self.kept]

    def run(self, name: str) -> Run:
        """The run of that name, or the one whose name, or hash, begins so.

        InputError: no run of the store does, or several do.
        """
        self.kept.refresh(curves=False)
        if not name or (found := self.kept.find(name)) is None:
            count = counted(len(self.kept.names()), "run")
            raise InputError(
                f"No name of the {count} in '{self.kept.place}' begins with {shown(name)}; see Store.runs."
            )
        return Run(self.kept.run(found), self.data_dir)

    @property
    def sweeps(self) -> list[str]:
        """Names of the sweeps that were run in this store."""
        self.kept.refresh(curves=False)
        return [sweep.name for sweep in self.kept.sweeps()]

    def sweep(self, name: str) -> Sweep:
        """The sweep of that name, as it was last run; InputError if there is none, or its file is not valid."""
        from rt_scale.report.status import status_of_sweep
        from rt_scale.store.sweep_runs import read_sweep

        if name not in (known := self.sweeps):
            raise unknown_name(f"sweep of the store '{self.kept.place}'", name, known)
        swept = read_sweep(self.kept.sweep(name).file, (), self.kept)
        failed = [row for row in status_of_sweep(swept.points, self.kept) if row.state == "failed"]
        return Sweep(swept, self.data_dir, {row.label: row.detail for row in failed})


class Sweep:
    """A sweep with its runs, finished or not.

    Attributes:
        name: of the sweep.
        failed: label of a run -> why it failed, or why it has no result after a call of ``sweep``.
    """

    def __init__(self, swept: SweepRuns, data_dir: Path, failed: Mapping[str, str]) -> None:
        self.name, self.failed = swept.name, failed
        self._swept, self._data_dir = swept, data_dir

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {len(self._swept.points)} runs)"

    @property
    def runs(self) -> list[Run]:
        """Its runs in order, also those that were not begun."""
        return [Run(self._swept.store.run(point.spec), self._data_dir) for point in self._swept.points]

    def table(self) -> pa.Table:
        """One row a run, begun or not: its label, axes and seeds, state, data, times, device, last and best metrics.

        It is the table ``runs`` of ``rt-scale export``.
        """
        from rt_scale.experiments.other_data import DataHere
        from rt_scale.report.export import runs_table

        self._swept.store.refresh(events=False)
        return runs_table([self._swept], DataHere(self._data_dir))

    def report(self, best: bool = False) -> Path:
        """Write the report of the finished runs, in the sweep's folder; returns the path of its page, report.html.

        ``best``: the student's best epoch in place of its last. InputError: no run is finished.
        """
        from rt_scale.experiments.other_data import DataHere
        from rt_scale.report.report import make_report

        self._swept.store.refresh(events=False)
        made = make_report([self._swept], "best" if best else "last", DataHere(self._data_dir))
        self._swept.folder.send(self._swept.folder.report)
        return made.folder / "report.html"

    def watch(self, every: float = 2.0, timeout: float | None = None) -> dict[str, int]:
        """Show the progress of a sweep that another process executes, until every run is done, failed or ended early.

        Args:
            every: seconds between two looks at the store.
            timeout: seconds after which it returns in any case.

        Returns the number of ``runs`` and of those in each state.
        """
        from rt_scale.progress.bars import counting
        from rt_scale.report.status import ENDED, count_states
        from rt_scale.system.console import PlainConsole

        began = time.monotonic()
        with counting(PlainConsole(), f"sweep {self.name}") as show:
            while True:
                self._swept.store.refresh(curves=False)
                counts = count_states(self._swept)
                over, total = sum(counts[state] for state in ENDED), counts["runs"] + self._swept.to_sample
                show(over, total)
                if over >= total or (timeout is not None and time.monotonic() - began >= timeout):
                    return counts
                time.sleep(every)


class Run:
    """A run in a store, finished or not; every property reads what the store has now.

    Its networks and embeddings need the run's record alone, not its data set. Runs that an earlier version began did
    not record size, mean and standard deviation of their images: they need the data set prepared in ``data_dir``.
    """

    def __init__(self, run_dir: RunDir, data_dir: Path) -> None:
        self._dir, self._data_dir = run_dir, data_dir

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status.state})"

    @property
    def name(self) -> str:
        """``<kind>-<hash>``, the name of its directory."""
        return self._dir.name

    @property
    def path(self) -> Path:
        """Its directory; of a store in an object store, its copy on this machine."""
        return self._dir.path

    @property
    def spec(self) -> RunSpec:
        """What was run; InputError if it was recorded by a version whose specs this one cannot read."""
        from rt_scale.store.sweep_runs import recorded_spec

        return recorded_spec(self._fresh())

    @property
    def status(self) -> RunStatus:
        """Its ``state`` (done, running, failed, partial, missing), attempts and owner."""
        return self._fresh().status()

    @property
    def result(self) -> RunResult | None:
        """Its result, with the last and best values of every metric; None if it is not done."""
        return self._fresh().result()

    @property
    def metrics(self) -> pa.Table:
        """Every measured value: step (int64), epoch (float64), name, value (float64), time (seconds since 1970)."""
        from rt_scale.store.metrics import read_metrics

        return read_metrics(self._fresh().metrics_path)

    def network(self, role: Role = "student", step: int | None = None) -> Network:
        """A network with the weights of a checkpoint, in evaluation mode, on the CPU.

        Called with inputs [B, C, H, W] of :meth:`preprocess` it gives logits [B, m]; it has the parts ``encoder``
        ([B, C, H, W] to embeddings [B, D]) and ``projector`` (from embeddings to logits). An encoder of your own is
        imported from where this process finds it, if its source is that of the run.

        Args:
            role: ``student``, ``teacher``, or ``init``, the student at its start.
            step: optimiser steps done; None: the last there is. A frozen teacher is the same at every step.

        Raises:
            InputError: another role, or a step without checkpoint; the message names those there.
            RunError: the checkpoint is damaged.
        """
        from rt_scale.experiments.networks import load_network

        return load_network(self._dir, role, self._data_dir, step)

    def encoder(self, role: Role = "student", step: int | None = None) -> Encoder:
        """The encoder of :meth:`network`: inputs [B, C, H, W] to embeddings [B, D]."""
        return self.network(role, step).encoder

    def preprocess(self, images: Images, *, data: str | None = None) -> Tensor:
        """The networks' inputs, as the run's probes (and its views without augmentation) make them.

        Images of another size than the data set's are scaled and cropped as ``rt-scale data prepare --size`` does it;
        then come ``data.size`` and the normalisation by the data set's mean and standard deviation.

        Args:
            images: uint8 [N, H, W, C] or [N, C, H, W], a tensor or array, or a list of PIL images of any sizes.
            data: the set of ``probe.also`` whose size and mean are to be used; None: the one it is distilled on.

        Returns:
            float32 (float64 at that precision) [N, C, S, S], on the CPU.

        InputError: the images are of another form, or nothing is known of the data set.
        """
        return self._inputs(data).preprocess(images)

    def embed(
        self,
        images: Images,
        role: Role = "student",
        step: int | None = None,
        *,
        batch_size: int | None = None,
        device: str = "auto",
        data: str | None = None,
    ) -> Tensor:
        """Embeddings of images, float32 [N, D] on the CPU, computed as the run's probes compute theirs.

        On the run's CPU, with its batches, they equal those of its probes bit for bit.

        Args:
            images, data: as of :meth:`preprocess`.
            role, step: as of :meth:`network`.
            batch_size: images at a time; None: as many as in the run.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            InputError: as of :meth:`preprocess` and :meth:`network`, or the device cannot be used.
            RunError: the checkpoint is damaged.
        """
        return self._inputs(data).embed(self.encoder(role, step), images, batch_size, device)

    def _inputs(self, data: str | None) -> RunInputs:
        from rt_scale.experiments.embedding import RunInputs

        return RunInputs(self._fresh(), self._data_dir, data)

    def _fresh(self) -> RunDir:
        self._dir.refresh()
        return self._dir
