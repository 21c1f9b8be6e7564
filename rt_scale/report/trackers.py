"""Finished runs as folders of other trackers, written by their own clients offline: MLflow and Weights & Biases."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from rt_scale.report.export import merge, result_numbers
from rt_scale.spec.errors import InputError
from rt_scale.spec.part import Document
from rt_scale.store.atomic import disk_errors, names_in
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.tensorboard.settings import flat_settings

Tracker = Literal["mlflow", "wandb"]
DATABASE, ARTIFACTS = "mlflow.db", "artifacts"
_BATCH = 100
"""The most params that MLflow takes at once."""


class _Finished(NamedTuple):
    """A run with a result: the sweeps that it is in, its label in the first, and its measurements."""

    sweeps: Sequence[str]
    label: str
    run_dir: RunDir
    spec: Document
    result: RunResult

    def measured(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Step, time in seconds since 1970, and values with the epoch, ascending by step."""
        rows = sorted(read_metrics(self.run_dir.metrics_path).to_pylist(), key=lambda row: row["step"])
        for step, group in itertools.groupby(rows, key=lambda row: row["step"]):
            found = list(group)
            values = {row["name"]: row["value"] for row in found}
            yield int(step), max(row["time"] for row in found), {"epoch": found[-1]["epoch"], **values}

    @property
    def tags(self) -> dict[str, str]:
        return {"run": self.run_dir.name, "sweep": ", ".join(self.sweeps), "label": self.label}


def export_to(tracker: Tracker, sweeps: Sequence[SweepRuns], folder: Path) -> int:
    """Write the finished runs of sweeps: params, metrics over steps, final results, and tags; returns their number.

    ``mlflow``: an SQLite store ``mlflow.db``, with an experiment a sweep, and artifacts beside it. ``wandb``: a folder
    ``wandb/offline-run-*`` a run, for ``wandb sync``, with the sweep as project. A run of several sweeps is in the
    first. Nothing is sent anywhere.

    InputError: the tracker is not installed, the folder is not empty or not writable, or no run is finished.
    """
    client = _client(tracker)
    if folder.is_file() or names_in(folder):
        raise InputError(f"'{folder}' is not empty: name a new folder with --out.")
    found = list(_finished(sweeps))
    if not found:
        raise InputError("None of these runs is finished, so there is nothing to write.")
    with disk_errors(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the clients' own code
        folder.mkdir(parents=True, exist_ok=True)
        (_to_mlflow if tracker == "mlflow" else _to_wandb)(client, found, folder.absolute())
    return len(found)


def _client(tracker: Tracker) -> ModuleType:
    # MLflow sends usage data unless told not to.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    try:
        if tracker == "mlflow":
            importlib.import_module("sqlalchemy")
            importlib.import_module("alembic")
        return importlib.import_module(tracker)
    except ImportError:
        raise InputError(
            f"--to {tracker} needs a package that is not installed. Install it with: pip install 'rt-scale[{tracker}]'."
        ) from None


def _finished(sweeps: Sequence[SweepRuns]) -> Iterator[_Finished]:
    for run in merge(sweeps):
        run_dir = sweeps[0].store.run(run.point.spec)
        if (result := run_dir.result()) is not None:
            yield _Finished(run.sweeps, run.point.label, run_dir, run.point.spec.canonical(), result)


def _to_mlflow(mlflow: Any, runs: Sequence[_Finished], folder: Path) -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it tells of every table that it makes
    client = mlflow.MlflowClient(f"sqlite:///{folder / DATABASE}")
    entities = mlflow.entities
    experiments: dict[str, str] = {}
    for run in runs:
        sweep = run.sweeps[0]
        if sweep not in experiments:
            experiments[sweep] = client.create_experiment(sweep, (folder / ARTIFACTS / sweep).as_uri())
        measured = list(run.measured())
        times = [round(1000 * time) for _, time, _ in measured] or [0]
        made = client.create_run(experiments[sweep], times[0], run.tags, run.label).info.run_id
        params = [entities.Param(key, str(value)[:6000]) for key, value in flat_settings(run.spec).items()]
        metrics = [
            entities.Metric(_metric(name), value, time, step)
            for (step, _, values), time in zip(measured, times, strict=False)
            for name, value in values.items()
        ]
        final = result_numbers(run.result)
        metrics += [entities.Metric(_metric(name), value, times[-1], run.result.steps) for name, value in final.items()]
        for start in range(0, max(len(params), len(metrics)), _BATCH):
            client.log_batch(made, metrics[start : start + _BATCH], params[start : start + _BATCH])
        for name in ("spec.json", "environment.json", "result.json", "artifacts"):
            if (run.run_dir.path / name).exists():
                client.log_artifact(made, str(run.run_dir.path / name))
        client.set_terminated(made, "FINISHED", times[-1])


def _metric(name: str) -> str:
    """MLflow's names have no ``@``: ``probe/student/linear@cifar10`` becomes ``probe/student/linear:cifar10``."""
    return re.sub(r"[^\w./: -]", ":", name)


def _to_wandb(wandb: Any, runs: Sequence[_Finished], folder: Path) -> None:
    # What describes this machine and process says nothing of the run, which ran elsewhere and earlier.
    quiet = wandb.Settings(
        silent=True, console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True,
        x_disable_machine_info=True, x_save_requirements=False,
    )  # fmt: skip
    for run in runs:
        with wandb.init(
            dir=folder, mode="offline", project=run.sweeps[0], name=run.label, id=run.run_dir.name, group=run.sweeps[0],
            config={**run.spec, "rt_scale": run.tags}, settings=quiet,
        ) as made:  # fmt: skip
            for step, time, values in run.measured():
                made.log({**values, "time": time}, step=step)
            made.summary.update(result_numbers(run.result))
    wandb.teardown()  # waits until its service has written everything
