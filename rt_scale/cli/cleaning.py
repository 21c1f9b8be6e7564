"""The command that gives disk space back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import JsonOption, StoreOption, open_console, open_store, print_table
from rt_scale.progress.eta import duration_text
from rt_scale.spec.wording import counted

if TYPE_CHECKING:
    from rt_scale.store.gc import Garbage

DAY = 86400.0

app = typer.Typer()


@app.command()
def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    older_than: Annotated[float, typer.Option(min=0, metavar="DAYS", help="Only what has not changed since.")] = 0.0,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """List runs that no sweep of the store refers to, and leftovers of killed processes; remove them when asked.

    A sweep refers to the runs in its folder sweeps/NAME, and to those that they start from. Runs that were started
    alone with 'rt-scale run' belong to no sweep and are listed, too. Running ones stay.
    """
    from rt_scale.store.gc import find_garbage, remove_garbage

    place = open_store(store)
    place.refresh(curves=False)
    found = find_garbage(place, older_than * DAY)
    if as_json:
        print(json.dumps([{"path": str(item.path), "state": item.state, "size": item.size, "age": item.age}
                          for item in found], indent=1))  # fmt: skip
    else:
        if found:
            rows: list[tuple[str, ...]]
            rows = [
                (str(i.path.relative_to(place.root)), i.state, size_text(i.size), f"{duration_text(i.age)} ago")
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
        console.print(f"Removed {len(gone):,}, {size_text(sum(item.size for item in gone))}.")


def _summary(found: list[Garbage]) -> str:
    if not found:
        return "nothing to remove."
    left = [item for item in found if item.state == "leftover"]
    runs = [item for item in found if item.state != "leftover"]
    sizes = [size_text(sum(item.size for item in items)) for items in (runs, left)]
    told = f"{counted(len(runs), 'run')} that no sweep refers to ({sizes[0]})"
    return f"{told}, {counted(len(left), 'leftover')} ({sizes[1]})."


def size_text(size: float) -> str:
    """Bytes in a unit that suits them, e.g. ``3.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
