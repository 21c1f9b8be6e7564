"""The command ``export``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rt_scale.cli.options import (
    GIVEN,
    DataOption,
    ImportOption,
    JsonOption,
    SetOption,
    StoreOption,
    assigned,
    find_data_dir,
    open_console,
    open_runs,
    read_path,
    send,
    show_json,
    warn,
    writable,
)
from rt_scale.spec.errors import InputError, counted

if TYPE_CHECKING:
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer()


class Target(StrEnum):
    """What sweeps are written as."""

    CSV = "csv"
    PARQUET = "parquet"
    MLFLOW = "mlflow"
    WANDB = "wandb"


class WeightsForm(StrEnum):
    """What an encoder is written as."""

    TORCHVISION = "torchvision"
    SAFETENSORS = "safetensors"
    HUGGINGFACE = "huggingface"


class Network(StrEnum):
    """A network of a run."""

    STUDENT = "student"
    TEACHER = "teacher"
    INIT = "init"


@app.command()
def export(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help=f"{GIVEN}.")],
    to: Annotated[Target | None, typer.Option("--to", help="Tables, or folders of a tracker.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Folder to write to (tables: export, in the sweep's folder of the store)."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Write the encoder of one run to this new folder."),
    ] = None,
    form: Annotated[WeightsForm | None, typer.Option("--as", help="Form of the weights (safetensors).")] = None,
    network: Annotated[Network | None, typer.Option(help="Whose encoder (student).")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Step of the checkpoint (the last).")] = None,
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write sweeps as two tables, runs and curves, or for another tracker; or the encoder of a run."""
    if (to is None) == (weights is None):
        raise InputError("Give either --to csv, parquet, mlflow or wandb, or --weights FOLDER for an encoder.")
    if weights is None and (form or network or step is not None):
        raise InputError("--as, --network and --step are of an encoder: give them with --weights FOLDER.")
    if out is None and to in (Target.MLFLOW, Target.WANDB):
        raise InputError(f"Say with --out which new folder {to} is to read.")
    if weights is not None and out is not None:
        raise InputError("--weights names the folder already: leave --out out.")
    place, sweeps = open_runs(files, assigned(overrides, imports), store)
    place.refresh()
    data = find_data_dir(data_dir)
    if weights is not None:
        _weights(
            place, sweeps, weights, form or WeightsForm.SAFETENSORS, network or Network.STUDENT, step, data, as_json
        )
    elif to in (Target.MLFLOW, Target.WANDB) and out is not None:
        _tracker(sweeps, to, out, as_json)
    else:
        _tables(place, sweeps, to or Target.CSV, out, data, as_json)


def _weights(
    place: Store,
    sweeps: Sequence[SweepRuns],
    folder: Path,
    form: WeightsForm,
    network: Network,
    step: int | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    from rt_scale.report.weights import write_weights

    names = {point.spec.name: None for sweep in sweeps for point in sweep.points}
    if len(names) != 1:
        raise InputError(
            f"--weights writes the encoder of one run, and these are {counted(len(names), 'run')}. Name one."
        )
    written = write_weights(place.run(*names), folder, form.value, data_dir, network.value, step)
    if as_json:
        show_json({"files": [str(path) for path in written]})
        return
    open_console().print(f"{network.value} of {next(iter(names))}, as {form.value}; {written[-1]} says how to load it")


def _tracker(sweeps: Sequence[SweepRuns], to: Target, folder: Path, as_json: bool) -> None:
    from rt_scale.report.trackers import export_to

    tracker: Literal["mlflow", "wandb"] = "mlflow" if to is Target.MLFLOW else "wandb"
    runs = export_to(tracker, sweeps, folder)
    if as_json:
        show_json({"path": str(folder), "runs": runs})
        return
    uri = f"mlflow ui --backend-store-uri sqlite:///{folder.absolute()}/mlflow.db"
    command = uri if tracker == "mlflow" else f"wandb sync {folder}/wandb/offline-run-*"
    open_console().print(f"{counted(runs, 'run')} in {folder}; next: {command}")


def _tables(
    place: Store, sweeps: Sequence[SweepRuns], to: Target, out: Path | None, data_dir: Path, as_json: bool
) -> None:
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.report.export import export as export_tables

    names = {sweep.name for sweep in sweeps}
    if out is None and len(names) > 1:
        raise InputError(f"{len(names)} sweeps go into one pair of tables; say where with --out FOLDER.")
    here = DataHere(data_dir)
    warn(compare_sweeps(sweeps, here)[1])
    if out is None:
        place = writable(place, [sweeps[0].folder.export])
        sweeps = [replace(sweep, store=place) for sweep in sweeps]
    folder = sweeps[0].folder
    written = export_tables(sweeps, out or folder.export, "csv" if to is Target.CSV else "parquet", here)
    if out is None:
        send(folder, folder.export)
    if as_json:
        show_json({name: {"path": str(table.path), "rows": table.rows} for name, table in written.items()})
        return
    for name, table in written.items():
        open_console().print(f"{name}: {table.rows:,} rows in {table.path}")
