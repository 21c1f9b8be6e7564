"""The command that packs sweeps for another machine."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rt_scale.cli.cleaning import size_text
from rt_scale.cli.options import (
    DataOption,
    JsonOption,
    SetOption,
    StoreOption,
    find_data_dir,
    open_console,
    open_store,
    read_path,
    warn,
)
from rt_scale.cli.sources import look, told
from rt_scale.spec.errors import InputError
from rt_scale.spec.wording import counted

if TYPE_CHECKING:
    from rt_scale.spec.sweep import Point, SweepSpec
    from rt_scale.store.bundle.pack import Packed
    from rt_scale.store.store import Store

app = typer.Typer()


class Weights(StrEnum):
    """Whose checkpoints are packed."""

    NONE = "none"
    FINAL = "final"
    ALL = "all"


@app.command()
def bundle(
    files: Annotated[list[Path], typer.Argument(parser=read_path, metavar="FILE", help="Sweep files.")],
    out: Annotated[
        Path | None, typer.Option(parser=read_path, help="File to write, a .zip (the first sweep's name).")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Networks that are packed, too.")] = Weights.NONE,
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pack sweeps with their runs and reports into one file, which report, status, export and board open anywhere.

    What is not finished is packed as far as it is. Weights are packed as safetensors; no checkpoint can be gone on
    from.
    """
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.scheduler.search import known_points
    from rt_scale.spec.sweep import as_run
    from rt_scale.store.bundle.format import SUFFIX, is_bundle
    from rt_scale.store.bundle.pack import SweepPart, pack

    _refuse_bundles([file for file in files if is_bundle(file)])
    place = open_store(store)
    loaded = [look(file, overrides, place) for file in files]
    path = out or Path(loaded[0][0].name + SUFFIX)
    if path.suffix != SUFFIX or os.path.isdir(path):
        raise InputError(f"--out is '{path}'; a bundle is a zip file: name one that ends in {SUFFIX}.")
    place.refresh()
    sweeps, parts = [], []
    for sweep, points, given in loaded:
        sweeps.append((sweep, known_points(sweep, points, place)))
        specs = [point.spec for point in sweeps[-1][1]]
        parts.append(SweepPart(sweep.name, as_run(given, overrides or []), specs))
    known = [(sweep.name, points) for sweep, points in sweeps]
    warn(compare_sweeps(known, place, DataHere(find_data_dir(data_dir)))[1])
    names = [sweep.name for sweep, _ in sweeps]
    words = [*(Path(told(file, names, number)).name for number, file in enumerate(files)), "--weights", weights.value]
    words += [word for override in overrides or [] for word in ("--set", override)]
    from rt_scale.progress.bars import counting

    with counting(open_console(stderr=True), "packing runs") as progress:
        packed = pack(
            path, place, parts, weights=weights.value, progress=progress,
            made={"command": shlex.join(["rt-scale", "bundle", *words])},
        )  # fmt: skip
    if as_json:
        print(json.dumps(_plain(packed), indent=1))
    else:
        _show(sweeps, place, packed)


def _refuse_bundles(files: Sequence[Path]) -> None:
    if files:
        raise InputError(f"'{files[0]}' is a bundle already; give sweep files.")


def _plain(packed: Packed) -> dict[str, Any]:
    manifest = packed.manifest
    return {
        "path": str(packed.path), "size": packed.size, "sha256": packed.sha256, "files": len(manifest.files),
        "sweeps": manifest.sweeps, "runs": manifest.runs, "notes": manifest.notes,
    }  # fmt: skip


def _show(sweeps: Sequence[tuple[SweepSpec, Sequence[Point]]], place: Store, packed: Packed) -> None:
    from rt_scale.report.status import show_status, status_of_sweep
    from rt_scale.scheduler.early_stopping import ended_early

    console = open_console()
    for sweep, points in sweeps:
        console.print(f"{sweep.name}:")
        show_status(status_of_sweep(points, place, ended_early([sweep], place)), console)
    own = {point.spec.name for _, points in sweeps for point in points}
    first = Counter(state for name, state in packed.manifest.runs.items() if name not in own)
    counts = ", ".join(f"{number} {state}" for state, number in first.items())
    lines = [f"{first.total()} more that these start from: {counts}"] if first else []
    files = f"{counted(len(packed.manifest.files), 'file')}, {size_text(packed.size)}, sha256 {packed.sha256}"
    for line in [*lines, *packed.manifest.notes, f"{packed.path}: {files}"]:
        console.print(line)
