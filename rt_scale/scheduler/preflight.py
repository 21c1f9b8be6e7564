"""Checks before a sweep starts: data, devices, earlier failures, and changes of its file."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable, Sequence

from rt_scale.data.prepared import KnownData, known_data
from rt_scale.experiments.base import check_all, unfinished
from rt_scale.experiments.other_data import DataHere, compare_sweeps
from rt_scale.scheduler.job import Job, Where
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.explore import ExploreSpec, check_length
from rt_scale.spec.grid import corner_points
from rt_scale.spec.metrics import parse_probe_name
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, changed_plugins

CHECK = """
import sys
from rt_scale.experiments.options import find_device
from rt_scale.spec.errors import InputError
from rt_scale.training.precision import check_precision
try:
    device = find_device(sys.argv[1])
    for precision in sys.argv[2:]:
        check_precision(precision, device)
except InputError as error:
    sys.exit(str(error))
"""


def changed(sweep: SweepRuns, replace: bool) -> str:
    """How the sweep's runs differ from those recorded in the store, in words; empty if none was dropped.

    InputError: the store's sweep of that name shares no run with this one, and ``replace`` is False.
    """
    before = set(sweep.folder.runs())
    now = {point.spec.name for point in sweep.points}
    gone, new = len(before - now), len(now - before)
    if not before or not gone:
        return ""
    because = changed_plugins(sweep)
    if not before & now and not replace:
        raise InputError(
            f"The store holds a sweep '{sweep.name}' of {len(before)} runs, and none of them is among the "
            f"{len(now)} of this file. Give this one another name, or replace that sweep with --yes: its runs stay in "
            f"the store until 'rt-scale gc --delete'.{because and f' The reason: {because}.'}"
        )
    return (
        f"sweep '{sweep.name}' has changed since it was run: {new} of its {len(now)} runs are new, and {gone} of "
        "the earlier ones no longer belong to it; they stay in the store until 'rt-scale gc --delete'"
        f"{because and f'; {because}'}"
    )


def runs_on_other_data(sweeps: Sequence[SweepRuns], where: Where) -> str:
    """Which runs, including those that they start from, were computed on other images than are here; empty if none.

    InputError: the runs would be executed here, which would mix results on both.
    """
    _, text = compare_sweeps(sweeps, DataHere(where.data_dir))
    if text and where.alone:
        raise InputError(f"{text} Nothing was started.")
    return text


def failed_before(jobs: Iterable[Job], store: Store) -> dict[str, str]:
    """Why the jobs' runs, and those that they start from, failed at their last attempt, by name."""
    found = {}
    for spec in all_runs(job.spec for job in jobs):
        if store.status(spec.name).state == "failed":
            why = str((store.run(spec).failure() or {}).get("reason", "no reason is recorded"))
            found[spec.name] = f"{why} (It failed before, and is tried again with --retry-failed.)"
    return found


def check_here(todo: Sequence[Job], where: Where, check_stop: StopCheck = no_check) -> None:
    """Refuse jobs that cannot run on this machine (InputError); ``check_stop`` is called while data is fetched."""
    workers = {job.name: job.launch.workers for job in todo}
    check_all([job.spec for job in todo], where.data_dir, check_stop, workers)
    precisions = {each for job in todo for run in unfinished(job.spec, where.store) for each in run.precisions}
    if todo and (where.device != "auto" or "tf32" in precisions):
        hidden = where.device == "auto" and not any(job.launch.gpus for job in todo)
        _check_device("cpu" if hidden else where.device, precisions)
    if any(job.launch.loader == "ffcv" for job in todo):
        from rt_scale.data.loaders.ffcv import require_ffcv  # imports torch

        require_ffcv()


def _check_device(name: str, precisions: Iterable[str]) -> None:
    import torch

    from rt_scale.experiments.options import find_device
    from rt_scale.training.precision import check_precision

    if name != "cpu" and torch.cuda.is_available():
        # In another process, as CUDA keeps some of a GPU's memory for as long as a process that used it lives.
        ended = subprocess.run([sys.executable, "-c", CHECK, name, *precisions], capture_output=True, text=True)
        if ended.returncode:
            raise InputError((ended.stderr.strip().splitlines() or [f"The device '{name}' cannot be used here."])[-1])
        return
    found = find_device(name)
    for precision in precisions:
        check_precision(precision, found)


def refuse_hidden_gpus(launches: Iterable[LaunchSpec], device: str) -> None:
    """Refuse a CUDA ``device`` that runs are not given by their launch sections (InputError)."""
    kind, _, number = device.partition(":")
    for launch in launches if kind == "cuda" else ():
        if not launch.gpus:
            raise InputError(
                f"--device {device} was given, but launch.gpus is 0, and runs see no GPU that they do not ask for. "
                "Give --gpus 1, or a share of one such as --gpus 0.5; or leave --device out."
            )
        if number.isdigit() and int(number) >= launch.gpus and number != "0":
            raise InputError(
                f"--device {device} was given, but a worker sees {launch.gpus:g} of the GPUs, counted from 0. Ray "
                "chooses which: leave --device out. To keep some GPUs free, name the others in CUDA_VISIBLE_DEVICES."
            )


def check_exploration(sweep: SweepSpec, where: Where, check_stop: StopCheck = no_check) -> None:
    """Refuse an ``explore`` section that contradicts the data sets known here (InputError).

    ``check_stop`` is called while data is fetched.
    """
    if sweep.explore is not None:
        specs = [point.spec for point in corner_points(sweep)]
        check_on_data(sweep.explore, specs, known_data(specs, where.data_dir))
        if sweep.explore.search is not None and where.alone:
            check_all(specs, where.data_dir, check_stop)


def check_on_data(explore: ExploreSpec, specs: Iterable[RunSpec], known: KnownData) -> None:
    """Refuse a probe on images without labels, and a grace in steps as long as a run (InputError).

    ``specs``: every run of the grid, or at the corners of the space; unknown data sets pass.
    """
    probe = parse_probe_name(explore.metric)
    for spec in specs:
        info = known.main(spec) if isinstance(spec, TrainingSpec) else None
        if info is None or not isinstance(spec, TrainingSpec):
            continue
        if probe is not None and probe.data is None and not info.labelled:
            raise InputError(
                f"explore.metric {explore.metric} is never measured: {spec.data.name} has no labels to probe with. "
                "Name a set with labels in probe.also, and its metric here, e.g. probe@cifar10/student/linear."
            )
        if explore.stop is not None:
            images = spec.data.samples or info.train
            check_length(explore.stop, spec, math.ceil(images / spec.train.batch_size))
