"""The command that hands results to other programs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rt_scale.cli.options import (
    DataOption,
    JsonOption,
    SetOption,
    StoreOption,
    find_data_dir,
    open_console,
    read_path,
    send,
    warn,
    writable,
)
from rt_scale.cli.sources import open_sweeps
from rt_scale.spec.errors import InputError

app = typer.Typer()


class Format(StrEnum):
    """Kinds of files."""

    CSV = "csv"
    PARQUET = "parquet"


@app.command()
def export(
    files: Annotated[list[Path], typer.Argument(parser=read_path, metavar="FILE", help="Sweep files, or a bundle.")],
    to: Annotated[Format, typer.Option("--to", help="Kind of files.")],
    out: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Folder to write to (export, in the sweep's own folder of the store)."),
    ] = None,
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write sweeps as two tables: runs, a row each, and curves, a row each measured value."""
    place, loaded = open_sweeps(files, overrides, store)
    names = {sweep.name for sweep, _ in loaded}
    if out is None and len(names) > 1:
        raise InputError(f"{len(names)} sweeps go into one pair of tables; say where with --out FOLDER.")
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.report.export import export as export_tables
    from rt_scale.scheduler.search import known_points

    place.refresh()
    sweeps = [(sweep.name, known_points(sweep, points, place)) for sweep, points in loaded]
    here = DataHere(find_data_dir(data_dir))
    warn(compare_sweeps(sweeps, place, here)[1])
    if out is None:
        place = writable(place, [place.sweep(sweeps[0][0]).export])
    folder = place.sweep(sweeps[0][0])
    written = export_tables(sweeps, place, out or folder.export, to.value, here)
    if out is None:
        send(folder, folder.export)
    if as_json:
        print(json.dumps({name: {"path": str(table.path), "rows": table.rows} for name, table in written.items()}))
        return
    for name, table in written.items():
        open_console().print(f"{name}: {table.rows:,} rows in {table.path}")
