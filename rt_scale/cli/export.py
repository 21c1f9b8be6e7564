"""The command ``export``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    examples,
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
    from rt_scale.store.run_dir import RunDir
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer()
Form = Literal["torchvision", "safetensors", "huggingface"]
Network = Literal["student", "teacher", "init"]
Written = tuple[dict[str, object], str]
"""What was written, as JSON and in words."""


@app.command(
    epilog=examples(
        "rt-scale export sweeps/demo.yaml --to csv",
        "rt-scale export sweeps/demo.yaml --to mlflow --out mlflow-runs",
        "rt-scale export RUN --weights encoder --as huggingface",
    )
)
def export(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help=f"{GIVEN}.")],
    to: Annotated[
        Literal["csv", "parquet", "vtp", "mlflow", "wandb"] | None,
        typer.Option(help="Tables, planes (for ParaView, and as npz), or folders of a tracker."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Folder to write to (tables: export, in the sweep's folder of the store)."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(parser=read_path, help="Write the encoder of one run to this new folder.")
    ] = None,
    form: Annotated[Form | None, typer.Option("--as", help="Form of the weights (safetensors).")] = None,
    network: Annotated[Network | None, typer.Option(help="Whose encoder (student).")] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Step of the checkpoint (the last).")] = None,
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write sweeps as two tables, runs and curves, their planes, or for a tracker; or the encoder of a run."""
    _check_together(to, weights, out, of_encoder=bool(form or network or step is not None))
    place, sweeps = open_runs(files, assigned(overrides, imports), store)
    place.refresh(events=False)
    data = find_data_dir(data_dir)
    if to == "csv" or to == "parquet":
        written, said = _tables(place, sweeps, to, out, data)
    elif to == "vtp":
        written, said = _planes(sweeps, out)
    elif to is not None:
        written, said = _for_tracker(sweeps, to, out)
    else:
        assert weights is not None  # see _check_together
        written, said = _encoder(_only_run(place, sweeps), weights, form, data, network, step)
    if as_json:
        show_json(written)
    else:
        open_console().print(said)


def _check_together(to: str | None, weights: Path | None, out: Path | None, of_encoder: bool) -> None:
    """Refuse options that do not belong together; ``of_encoder``: whether one of an encoder's own was given."""
    if (to is None) == (weights is None):
        raise InputError("Give either --to csv, parquet, vtp, mlflow or wandb, or --weights FOLDER for an encoder.")
    if to is not None and of_encoder:
        raise InputError("--as, --network and --step are of an encoder: give them with --weights FOLDER.")
    if weights is not None and out is not None:
        raise InputError("--weights names the folder already: leave --out out.")


def _only_run(place: Store, sweeps: Sequence[SweepRuns]) -> RunDir:
    names = list({point.spec.name: None for sweep in sweeps for point in sweep.points})
    if len(names) != 1:
        raise InputError(
            f"--weights writes the encoder of one run, and these are {counted(len(names), 'run')}: name one."
        )
    return place.run(names[0])


def _encoder(
    run: RunDir, folder: Path, form: Form | None, data: Path, network: Network | None, step: int | None
) -> Written:
    from rt_scale.report.weights import write_weights

    paths = write_weights(run, folder, form or "safetensors", data, network or "student", step)
    return {"files": [str(path) for path in paths]}, f"{folder}: README.md says how to load the encoder"


def _for_tracker(sweeps: Sequence[SweepRuns], tracker: Literal["mlflow", "wandb"], out: Path | None) -> Written:
    from rt_scale.report.trackers import export_to

    if out is None:
        raise InputError(f"Say with --out which new folder is for {tracker}.")
    runs, place = export_to(tracker, sweeps, out), out.absolute()
    opens = {"mlflow": f"mlflow ui --backend-store-uri sqlite:///{place}/mlflow.db",
             "wandb": f"wandb sync {place}/wandb/offline-run-*"}  # fmt: skip
    return {"path": str(out), "runs": runs}, f"{counted(runs, 'run')} in {out}; next: {opens[tracker]}"


def _planes(sweeps: Sequence[SweepRuns], out: Path | None) -> Written:
    from rt_scale.report.analyses.surfaces import export_planes

    if out is None:
        raise InputError("Say with --out which folder is for the planes.")
    paths = export_planes(sweeps, out)
    said = f"{counted(len(paths) // 2, 'plane')} in {out}, each as vtp (ParaView: Warp By Scalar) and as npz"
    return {"files": [str(path) for path in paths]}, said


def _tables(
    place: Store, sweeps: Sequence[SweepRuns], to: Literal["csv", "parquet"], out: Path | None, data_dir: Path
) -> Written:
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
    written = export_tables(sweeps, out or folder.export, to, here)
    if out is None:
        send(folder, folder.export)
    said = [f"{name}: {table.rows:,} rows in {table.path}" for name, table in written.items()]
    return {name: {"path": str(table.path), "rows": table.rows} for name, table in written.items()}, "\n".join(said)
