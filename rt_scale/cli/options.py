"""Options that commands share, and what they are resolved to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.store import Store
PIPE_WIDTH = 240

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store", help="Where runs are kept: a folder, s3://... or gs://... (RT_SCALE_STORE, else ./rt-store)."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where prepared data is kept (RT_SCALE_DATA, else the user's cache)."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Assign a field of the spec: --set encoder.name=vgg11; may be repeated."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriceOption = Annotated[Path | None, typer.Option("--price", help="A price sheet, e.g. cluster/prices.yaml, edited.")]
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
PackOption = Annotated[
    str | None, typer.Option(help="Runs trained as one batched network: a number, or auto; for launch.pack.")
]
BestOption = Annotated[bool, typer.Option("--best", help="The student's best epoch instead of its last.")]


def open_console(stderr: bool = False) -> Console:
    """The terminal, as wide as it is; a pipe gets lines that are never cut."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PIPE_WIDTH, soft_wrap=True)


def open_store(given: str | None) -> Store:
    """The store at ``given``, else where the environment says."""
    from rt_scale.store.place import default_place
    from rt_scale.store.store import Store

    return Store.open(default_place(given))


def find_data_dir(given: Path | None) -> Path:
    """Where prepared data is: ``given``, else where the environment says."""
    from rt_scale.data.places import default_data_dir

    return default_data_dir(given)


def with_launch(sweep: SweepSpec, given: Mapping[str, Any]) -> SweepSpec:
    """``sweep`` with the fields ``given`` in place of those of its launch section (InputError)."""
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import LaunchSpec

    if not given:
        return sweep
    section = build(LaunchSpec, {**sweep.launch.model_dump(), **given}, "the command line")
    return sweep.model_copy(update={"launch": section})


def print_table(titles: list[str], rows: list[tuple[str, ...]]) -> None:
    """Print rows under their titles."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    open_console().print(table)
