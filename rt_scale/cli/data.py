"""Commands on prepared data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rt_scale.cli.options import DataOption, JsonOption, find_data_dir, open_console, print_table

app = typer.Typer(no_args_is_help=True, help="Prepared data sets.")


@app.command("list")
def data_list(data_dir: DataOption = None, as_json: JsonOption = False) -> None:
    """Data sets: those known by name, those prepared, and their statistics."""
    from rt_scale.report.data_sets import data_rows

    rows = data_rows(find_data_dir(data_dir))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        titles = ["name", "classes", "size", "train", "test", "mean", "std", "prepared"]
        print_table(titles, [tuple(str(row[title]) for title in titles) for row in rows])


@app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="A known data set, or a new name for a folder of images.")],
    source: Annotated[Path | None, typer.Option("--from", help="The original: archive, file or folder.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the original.")] = False,
    size: Annotated[int | None, typer.Option(help="Resize a folder's images to SIZE x SIZE.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of the split of a folder that has none.")] = None,
    data_dir: DataOption = None,
) -> None:
    """Make the prepared file of a data set, once."""
    from rt_scale.data.prepare import prepare
    from rt_scale.launch.progress import counting

    with counting(open_console(), f"preparing {name}") as progress:
        prepared = prepare(name, find_data_dir(data_dir), source, download, progress, size=size, split_seed=split_seed)
    info = prepared.info
    open_console().print(
        f"{info.title}: {len(prepared.train):,} training and {len(prepared.test):,} test images, "
        f"{info.size} x {info.size} x {info.channels}, {len(info.classes)} classes, in {prepared.folder}",
        highlight=False,
    )
    for what, note in prepared.notes.items():
        open_console().print(f"{what}: {note}", highlight=False)


@app.command("verify")
def data_verify(name: Annotated[str, typer.Argument(help="A prepared data set.")], data_dir: DataOption = None) -> None:
    """Read a prepared data set through and compare its checksums."""
    from rt_scale.data.prepare import verify_prepared

    prepared = verify_prepared(name, find_data_dir(data_dir))
    print(f"{name}: {len(prepared.train) + len(prepared.test):,} images as written (sha256 {prepared.sha256})")
