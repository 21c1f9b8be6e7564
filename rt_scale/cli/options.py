"""Options that commands share, what they are resolved to, and how commands read sweeps."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rt_scale.spec.errors import InputError
from rt_scale.system.console import say

if TYPE_CHECKING:
    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.bundle.unpack import Bundle
    from rt_scale.store.store import Store, SweepDir
    from rt_scale.store.sweep_runs import SweepRuns
    from rt_scale.system.console import PlainConsole

PIPE_WIDTH = 240


def read_path(text: str) -> Path:
    """What a parameter that is a path is read by, so that ``--out=~/x`` is in the home directory."""
    from rt_scale.system.paths import user_path

    try:
        return user_path(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from None


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="Where runs are kept: a folder, s3://... or gs://... (RT_SCALE_STORE, else ./rt-store)."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", parser=read_path, help="Where prepared data is kept (RT_SCALE_DATA, else the user's cache)."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Assign a field of the spec: --set encoder.name=vgg11; may be repeated."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriceOption = Annotated[
    Path | None, typer.Option("--price", parser=read_path, help="A price sheet, e.g. cluster/prices.yaml, edited.")
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Mean it: a grid of more than 10,000 runs, a sweep in place of another.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="A Ray cluster: host:port, auto for this machine's, local for a Ray of its own (RAY_ADDRESS, else local)."
    ),
]
ConcurrencyOption = Annotated[int | None, typer.Option(min=1, help="Runs at a time, at most.")]
AccelerateOption = Annotated[
    str | None,
    typer.Option(help="Students' passes: auto, none, compile, or CUDA's graphs; for launch.accelerate."),
]
PackOption = Annotated[
    str | None, typer.Option(help="Runs trained as one batched network: a number, or auto; for launch.pack.")
]
BestOption = Annotated[bool, typer.Option("--best", help="The student's best epoch instead of its last.")]


def open_console(stderr: bool = False) -> PlainConsole:
    """The terminal, as wide as it is; a pipe gets lines that are never cut."""
    from rt_scale.system.console import PlainConsole

    console = PlainConsole(stderr=stderr)
    return console if console.is_terminal else PlainConsole(stderr=stderr, width=PIPE_WIDTH, soft_wrap=True)


def open_store(given: str | None) -> Store:
    """The store at ``given``, else where the environment says."""
    from rt_scale.store.objects.store import open_place
    from rt_scale.store.objects.uri import default_place

    return open_place(default_place(given))


def warn(text: str) -> None:
    """Say on the standard error what a reader of the output must know, where there is something."""
    if text:
        say(f"rt-scale: warning: {text}", error=True)


def writable(store: Store, folders: Sequence[Path], out: Path | None = None) -> Store:
    """The store, of which what is made of its runs is written elsewhere where that is asked for or cannot be helped.

    Args:
        store: where the runs are.
        folders: that are to be written there.
        out: where reports, exports and views are to be written; None: beside the runs, or, where these may only be
            read, in a new temporary folder, which is said on the standard error.
    """
    from rt_scale.store.atomic import can_write

    if out is not None:
        return store.deriving(out)
    if all(map(can_write, folders)):
        return store
    folder = Path(tempfile.mkdtemp(prefix="rt-scale-"))
    warn(f"'{store.place}' may only be read here: what is made of its runs is written to '{folder}'.")
    return store.deriving(folder)


def send(sweep: SweepDir, folder: Path) -> None:
    """Send a folder of the sweep's to where the store is kept; where that may only be read, it stays here."""
    try:
        sweep.send(folder)
    except InputError as error:
        warn(f"{error} So '{folder}' is kept on this machine alone.")


def find_data_dir(given: Path | None) -> Path:
    """Where prepared data is: ``given``, else where the environment says."""
    from rt_scale.data.catalogue import default_data_dir

    return default_data_dir(given)


def with_launch(sweep: SweepSpec, given: Mapping[str, Any]) -> SweepSpec:
    """``sweep`` with the fields ``given`` in place of those of its launch section (InputError)."""
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import LaunchSpec

    if not given:
        return sweep
    if re.fullmatch("[0-9]{1,10}", str(given.get("pack"))):  # a number or a word, which the command line has as text
        given = {**given, "pack": int(given["pack"])}
    section = build(LaunchSpec, {**sweep.launch.model_dump(), **given}, "the command line")
    return sweep.model_copy(update={"launch": section})


def open_sweeps(files: Sequence[Path], overrides: list[str] | None, store: str | None) -> tuple[Store, list[SweepRuns]]:
    """The store and the sweeps that a command is about.

    Args:
        files: sweep files; or one bundle, which is unpacked on first sight, and is store and sweeps at once.
        overrides: ``key=value`` assignments to the sweeps' bases.
        store: where runs are kept; None: where the environment says.

    Raises:
        InputError: where a file is not valid, a bundle is damaged, or one is given beside files, a store or
            assignments.
    """
    from rt_scale.store.bundle.format import is_bundle
    from rt_scale.store.sweep_runs import read_sweep

    bundles = [file for file in files if is_bundle(file)]
    if not bundles:
        place = open_store(store)
        return place, [read_sweep(file, overrides or [], place) for file in files]
    if len(files) > 1 or overrides or store:
        raise InputError(
            f"'{bundles[0]}' is a bundle, which holds sweeps as they were run, and their store: give it alone, without "
            "other files, --set or --store."
        )
    from rt_scale.progress.bars import counting
    from rt_scale.store.bundle.unpack import open_bundle

    with counting(open_console(stderr=True), "unpacking the bundle, MB") as progress:
        bundle = open_bundle(bundles[0], progress=progress)
    return bundle.store, [_load_bundled(bundle, name) for name in bundle.manifest.sweeps]


def told(file: Path, sweeps: Sequence[str], number: int) -> str:
    """How a record names the file of sweep ``number``: by its path; a pipe, which is gone, as its sweep is called."""
    return str(file) if file.is_file() else f"{sweeps[number]}.yaml"


def _load_bundled(bundle: Bundle, name: str) -> SweepRuns:
    """A sweep of the bundle; its file must give the runs that the bundle lists of it."""
    from rt_scale import __version__
    from rt_scale.store.sweep_runs import read_sweep

    kept = bundle.store.sweep(name)
    try:
        sweep = read_sweep(kept.file, (), bundle.store)
        if (sweep.name, [point.spec.name for point in sweep.points]) != (name, kept.runs()):
            raise InputError(f"The file of sweep '{name}' in the bundle gives other runs than the bundle lists.")
    except InputError as error:
        raise InputError(
            f"{error} The bundle was made by rt-scale {bundle.manifest.rt_scale}, this is {__version__}: if they "
            "differ, open it with that version."
        ) from error
    return sweep


def load_files(
    files: Sequence[Path], overrides: Sequence[str], launch: Mapping[str, Any], store: Store, yes: bool = False
) -> list[SweepRuns]:
    """The sweeps in files, as they are to be run.

    Args:
        files: sweep files.
        overrides: ``key=value`` assignments.
        launch: fields of every launch section, in place of those in the files.
        store: where their runs are kept.
        yes: whether grids may be as large as they like.

    Raises:
        InputError: where a file or any of its runs is not valid.
    """
    from rt_scale.spec import grid
    from rt_scale.spec.explore import MOST_RUNS
    from rt_scale.store.sweep_runs import read_sweep

    sweeps = [read_sweep(file, overrides, store, MOST_RUNS if yes else grid.GRID_LIMIT) for file in files]
    return [replace(sweep, spec=with_launch(sweep.spec, launch)) for sweep in sweeps]


def print_table(titles: list[str], rows: list[tuple[str, ...]]) -> None:
    """Print rows under their titles."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    open_console().print(table)
