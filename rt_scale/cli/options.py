"""Options that commands share, and how commands open stores and sweeps."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.spec.errors import InputError
from rt_scale.system.console import say

if TYPE_CHECKING:
    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.bundle.unpack import Bundle
    from rt_scale.store.store import Store, SweepDir
    from rt_scale.store.sweep_runs import SweepRuns
    from rt_scale.system.console import PlainConsole
    from rt_scale.system.tables import FittedTable

PIPE_WIDTH = 240
GIVEN = "Sweep files, names of the package's sweeps, spec files, (beginnings of) names of runs, or one bundle"
"""What stands for runs on a command line, for help texts."""


def examples(*commands: str) -> str:
    """The end of a command's help; each example a line of at most 78 columns, which is not wrapped."""
    return "\n".join(["Examples:", *commands])


def read_path(text: str) -> Path:
    """Parse a path parameter, so that ``--out=~/x`` is in the home directory."""
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
ImportOption = Annotated[
    list[str] | None,
    typer.Option("--import", help="A module of yours whose classes and functions are names; may be repeated."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriceOption = Annotated[
    Path | None, typer.Option("--price", parser=read_path, help="A price sheet, e.g. cluster/prices.yaml.")
]
YesOption = Annotated[
    bool,
    typer.Option(
        "--yes", help="Confirm a grid of more than 10,000 runs or 100,000 points, or a sweep that replaces another."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="A Ray cluster: host:port, auto for this machine's, local for a new one (RAY_ADDRESS, else local)."
    ),
]
ConcurrencyOption = Annotated[int | None, typer.Option(min=1, help="Runs at a time, at most.")]
DeadlineOption = Annotated[
    str | None, typer.Option("--deadline", help="When it has to end: 8h, 90m, 18:30 or 2026-02-28T18:30.")
]
AccelerateOption = Annotated[
    str | None,
    typer.Option(help="Students' passes: auto, none, compile, or CUDA's graphs; for launch.accelerate."),
]
PackOption = Annotated[
    str | None, typer.Option(help="Runs trained as one batched network: a number, or auto; for launch.pack.")
]
NotifyOption = Annotated[
    str | None,
    typer.Option(
        envvar="RT_SCALE_NOTIFY",
        show_envvar=False,
        help="A command or URL, told in JSON of failed runs and of the end (RT_SCALE_NOTIFY: not in Ray's dashboard).",
    ),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]
BestOption = Annotated[bool, typer.Option("--best", help="The student's best epoch instead of its last.")]


def open_console(stderr: bool = False) -> PlainConsole:
    """The console, in the terminal's width; lines to a pipe are never wrapped."""
    from rt_scale.system.console import PlainConsole

    console = PlainConsole(stderr=stderr)
    return console if console.is_terminal else PlainConsole(stderr=stderr, width=PIPE_WIDTH, soft_wrap=True)


def open_store(given: str | None) -> Store:
    """The store at ``given``, else at the environment's or the default place."""
    from rt_scale.store.objects.store import open_place
    from rt_scale.store.objects.uri import default_place

    return open_place(default_place(given))


def warn(text: str) -> None:
    """Print a warning to standard error unless it is empty."""
    if text:
        say(f"rt-scale: warning: {text}", error=True)


def open_in_browser(address: str) -> None:
    """Open the address in the user's browser; warn if there is none."""
    import webbrowser

    if not webbrowser.open(address):
        warn(f"No browser could be opened here; open {address} in one.")


def writable(store: Store, folders: Sequence[Path], out: Path | None = None) -> Store:
    """The store, with reports, exports and comparison views in ``out``; None: in the store's ``folders``.

    If those cannot be written, they go to a new temporary folder, with a warning.
    """
    from rt_scale.system.paths import can_write

    if out is not None:
        return store.deriving(out)
    if all(map(can_write, folders)):
        return store
    folder = Path(tempfile.mkdtemp(prefix="rt-scale-"))
    warn(f"'{store.place}' is read-only here: reports, exports and comparison views are written to '{folder}'.")
    return store.deriving(folder)


def send(sweep: SweepDir, folder: Path) -> None:
    """Upload a folder of the sweep; warn if the store is read-only."""
    try:
        sweep.send(folder)
    except InputError as error:
        warn(f"{error} So '{folder}' exists only on this machine.")


def find_data_dir(given: Path | None) -> Path:
    """The folder of prepared data: ``given``, else the environment's or the default one."""
    from rt_scale.data.meta import default_data_dir

    return default_data_dir(given)


def with_launch(sweep: SweepSpec, given: Mapping[str, object]) -> SweepSpec:
    """``sweep`` with those ``given`` fields of its launch section that are not None; InputError if not valid."""
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import SweepSpec

    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return sweep
    if re.fullmatch("[0-9]{1,10}", str(given.get("pack"))):  # a number or ``auto``; typer passes both as text
        given = {**given, "pack": int(str(given["pack"]))}
    document = sweep.model_dump(by_alias=True)
    return build(SweepSpec, {**document, "launch": {**document["launch"], **given}}, "the command line")


def open_runs(files: Sequence[Path], overrides: list[str] | None, store: str | None) -> tuple[Store, list[SweepRuns]]:
    """The store and the runs of a command, see ``read_runs``; a bundle is both, and is unpacked on first use.

    InputError: a file or name is not valid, a bundle is damaged, or one is given with files, a store or assignments.
    """
    from rt_scale.store.bundle.format import is_bundle
    from rt_scale.store.sweep_runs import changed_plugins, read_runs

    bundles = [file for file in files if is_bundle(file)]
    if not bundles:
        place = open_store(store)
        sweeps = read_runs(files, overrides or [], place)
        if any(point.spec.plugins for sweep in sweeps for point in sweep.points):
            place.refresh(curves=False)
            for sweep in sweeps:
                warn(changed_plugins(sweep))
        return place, sweeps
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


def assigned(overrides: Sequence[str] | None, modules: Sequence[str] | None) -> list[str]:
    """The assignments of ``--set``, and those of ``--import`` as one to the file's ``import``."""
    return [*(overrides or []), *([f"import={json.dumps(modules)}"] if modules else [])]


def set_words(overrides: Sequence[str] | None, modules: Sequence[str] | None) -> list[str]:
    """``--set`` and ``--import`` as words of a command line."""
    given = {"--set": overrides, "--import": modules}
    return [word for option, values in given.items() for value in values or [] for word in (option, value)]


def given_words(
    files: Sequence[Path],
    overrides: Sequence[str] | None,
    modules: Sequence[str] | None,
    store: str | None,
    data_dir: Path | None,
) -> list[str]:
    """The words of a command line that stand for the same runs."""
    places = {"--store": store, "--data-dir": data_dir}
    given = [word for option, place in places.items() if place is not None for word in (option, str(place))]
    return [*map(str, files), *set_words(overrides, modules), *given]


def told(file: Path, sweeps: Sequence[str], number: int) -> str:
    """The name of sweep ``number``'s file in records: its path, or for a pipe, the sweep's name."""
    return str(file) if file.is_file() else f"{sweeps[number]}.yaml"


def _load_bundled(bundle: Bundle, name: str) -> SweepRuns:
    """A sweep of the bundle; InputError if its file gives other runs than the bundle lists."""
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
    files: Sequence[Path], overrides: Sequence[str], launch: Mapping[str, object], store: Store, yes: bool = False
) -> list[SweepRuns]:
    """The sweeps in files, with the fields ``launch`` of their launch sections replaced; warns of equal networks.

    InputError: a file or a run is not valid, or, without ``yes``, a grid or a run is large.
    """
    from rt_scale.spec import grid
    from rt_scale.spec.differences import equal_networks
    from rt_scale.spec.explore import MOST_RUNS
    from rt_scale.store.sweep_runs import read_sweep

    sweeps = [read_sweep(file, overrides, store, MOST_RUNS if yes else grid.GRID_LIMIT, execute=True) for file in files]
    if not yes:
        grid.refuse_large_runs(point.spec for sweep in sweeps for point in sweep.grid)
    for note in equal_networks(point.spec for sweep in sweeps for point in sweep.grid):
        warn(note)
    return [replace(sweep, spec=with_launch(sweep.spec, launch)) for sweep in sweeps]


def show_json(fields: Mapping[str, object]) -> None:
    """Print ``fields`` as JSON, with the version of this output."""
    print(json.dumps({"version": 1, **fields}, indent=1))


def print_table(titles: list[str], rows: list[tuple[str, ...]]) -> None:
    """Print a table."""
    open_console().print(table_of(titles, rows))


def table_of(titles: Sequence[str], rows: Iterable[tuple[str, ...]]) -> FittedTable:
    """A table to be printed."""
    from rt_scale.system.tables import FittedTable

    return FittedTable(titles, list(rows))
