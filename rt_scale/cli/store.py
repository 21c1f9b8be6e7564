"""Commands on a whole store: ``bundle`` and ``gc``."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from rt_scale.cli.options import (
    DataOption,
    ImportOption,
    JsonOption,
    SetOption,
    StoreOption,
    assigned,
    examples,
    find_data_dir,
    open_console,
    open_store,
    print_table,
    read_path,
    set_words,
    show_json,
    told,
    warn,
)
from rt_scale.spec.errors import InputError, counted
from rt_scale.system.console import duration_text

if TYPE_CHECKING:
    from rt_scale.store.bundle.pack import Packed
    from rt_scale.store.gc import Garbage
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer()


class Weights(StrEnum):
    """Which checkpoints are packed."""

    NONE = "none"
    FINAL = "final"
    ALL = "all"


@app.command(
    epilog=examples(
        "rt-scale bundle sweeps/demo.yaml --weights final",
        "rt-scale report demo.tar.gz                  # reads it on any machine",
    )
)
def bundle(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help="Sweep files.")],
    out: Annotated[
        Path | None, typer.Option(parser=read_path, help="File to write, a .tar.gz (the first sweep's name).")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Checkpoints to include.")] = Weights.NONE,
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack sweeps with their runs and reports into one file, which report, status, export and board open anywhere.

    Unfinished runs are included. Weights are packed as safetensors; no run can be resumed from them.
    """
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.progress.bars import counting
    from rt_scale.store.bundle.format import SUFFIX, is_bundle
    from rt_scale.store.bundle.pack import pack
    from rt_scale.store.sweep_runs import read_sweep

    for file in filter(is_bundle, files):
        raise InputError(f"'{file}' is a bundle already; give sweep files.")
    place = open_store(store)
    sweeps = [read_sweep(file, assigned(overrides, imports), place) for file in files]
    path = out or Path(sweeps[0].name + SUFFIX)
    if not path.name.endswith(SUFFIX) or os.path.isdir(path):
        raise InputError(f"--out is '{path}'; name a file that ends in {SUFFIX}.")
    place.refresh()
    warn(compare_sweeps(sweeps, DataHere(find_data_dir(data_dir)))[1])
    names = [sweep.name for sweep in sweeps]
    given = [Path(told(file, names, number)).name for number, file in enumerate(files)]
    command = shlex.join(["rt-scale", "bundle", *given, "--weights", weights.value, *set_words(overrides, imports)])
    with counting(open_console(stderr=True), "packing runs") as progress:
        packed = pack(path, place, sweeps, weights=weights.value, progress=progress, made={"command": command})
    if as_json:
        show_json(_plain(packed))
    else:
        _show(sweeps, place, packed)


def _plain(packed: Packed) -> dict[str, object]:
    manifest = packed.manifest
    return {
        "path": str(packed.path), "size": packed.size, "sha256": packed.sha256, "files": len(manifest.files),
        "sweeps": manifest.sweeps, "runs": manifest.runs, "notes": manifest.notes,
    }  # fmt: skip


def _show(sweeps: Sequence[SweepRuns], place: Store, packed: Packed) -> None:
    from rt_scale.report.status import show_status, status_of_sweep

    console = open_console()
    for sweep in sweeps:
        console.print(f"{sweep.name}:")
        show_status(status_of_sweep(sweep.points, place, sweep.early_stopped), console)
    own = {point.spec.name for sweep in sweeps for point in sweep.points}
    first = Counter(state for name, state in packed.manifest.runs.items() if name not in own)
    counts = ", ".join(f"{number} {state}" for state, number in first.items())
    lines = [f"{first.total()} more that these need: {counts}"] if first else []
    files = f"{counted(len(packed.manifest.files), 'file')}, {decimal(packed.size)}, sha256 {packed.sha256}"
    for line in [*lines, *packed.manifest.notes, f"{packed.path}: {files}"]:
        console.print(line)


DAY = 86400.0


@app.command(
    epilog=examples(
        "rt-scale gc                                  # lists", "rt-scale gc --older-than 30 --delete         # removes"
    )
)
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    older_than: Annotated[float, typer.Option(min=0, help="Only what did not change for so many days.")] = 0.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List, or remove, runs that no sweep of the store refers to, and leftovers of killed processes.

    A sweep refers to the runs in its folder sweeps/NAME, and to those that they start from. Runs that were started
    with 'rt-scale run' belong to no sweep and are listed, too. Running ones are kept.
    """
    from rt_scale.store.gc import find_garbage, remove_garbage

    place = open_store(store)
    place.refresh(curves=False)
    found = find_garbage(place, older_than * DAY)
    if as_json:
        show_json({"found": [{**asdict(item), "path": str(item.path)} for item in found]})
    else:
        if found:
            rows: list[tuple[str, ...]]
            rows = [
                (str(i.path.relative_to(place.root)), i.state, decimal(i.size), f"{duration_text(i.age)} ago")
                for i in found
            ]
            print_table(["path", "state", "size", "last change"], rows)
        end = " Remove them with --delete." if found and not delete else ""
        open_console().print(f"{place.place}: {_summary(found)}{end}")
    if delete and found:
        stay = remove_garbage(place, found)
        console = open_console(stderr=as_json)
        for path, why in stay.items():
            console.print(f"{path.name} stays: {why}")
        gone = [item for item in found if item.path not in stay]
        console.print(f"Removed {len(gone):,}, {decimal(sum(item.size for item in gone))}.")


def _summary(found: list[Garbage]) -> str:
    if not found:
        return "nothing to remove."
    left = [item for item in found if item.state == "leftover"]
    runs = [item for item in found if item.state != "leftover"]
    sizes = [decimal(sum(item.size for item in items)) for items in (runs, left)]
    unreferenced = f"{counted(len(runs), 'run')} that no sweep refers to ({sizes[0]})"
    return f"{unreferenced}, {counted(len(left), 'leftover')} ({sizes[1]})."
