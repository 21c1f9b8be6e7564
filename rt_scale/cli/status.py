"""The command ``status``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    show_json,
    table_of,
    warn,
)
from rt_scale.spec.errors import InputError, unknown_name

if TYPE_CHECKING:
    from rich.console import Group

    from rt_scale.experiments.other_data import DataHere
    from rt_scale.report.status import StatusRow
    from rt_scale.spec.differences import Condition
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer()
WATCH = 2.0
"""Least seconds between two looks at a store."""


@app.command(
    epilog=examples(
        "rt-scale status                              # every run of the store",
        "rt-scale status sweeps/demo.yaml --watch",
        "rt-scale status --where 'student.alpha<0.5' --state failed",
    )
)
def status(
    targets: Annotated[
        list[Path] | None, typer.Argument(parser=read_path, help=f"{GIVEN}; without them, the whole store.")
    ] = None,
    overrides: SetOption = None,
    imports: ImportOption = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Only runs with such a field: student.alpha=0.5, also !=, <, <=, >, >=."),
    ] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help="Only runs in that state, e.g. failed; may be repeated.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until all runs are done.")] = False,
    store: StoreOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which runs are done, running, failed, partial or missing, named by the fields in which they differ."""
    from rt_scale.experiments.other_data import DataHere
    from rt_scale.report.status import STYLES
    from rt_scale.spec.differences import parse_condition

    for state in states or []:
        if state not in STYLES:
            raise unknown_name("state", state, STYLES)
    if watch and as_json:
        raise InputError("--watch looks again and again, and --json prints once. Give one of them.")
    place, sweeps = open_runs(targets or [], assigned(overrides, imports), store)
    conditions = [parse_condition(text) for text in where or []]
    look = _Look(place, sweeps, DataHere(find_data_dir(data_dir)), states or [], conditions)
    if watch:
        _watch(look)
        return
    rows, text = look.rows()
    warn(text)
    if as_json:
        show_json({"runs": [row.to_json() for row in look.named(rows)]})
    else:
        open_console().print(look.view(rows))


@dataclass(frozen=True)
class _Look:
    """What ``status`` shows: the runs of sweeps, or of the whole store if there are none, that meet the conditions."""

    store: Store
    sweeps: Sequence[SweepRuns]
    here: DataHere
    states: Sequence[str]
    conditions: Sequence[Condition]

    def rows(self) -> tuple[list[StatusRow], str]:
        """The rows, those of a store by the names of their directories, and a warning about other data, or nothing."""
        from rt_scale.experiments.other_data import compare, compare_sweeps
        from rt_scale.report.status import marked, matching, status_of_store, status_of_sweep

        self.store.refresh(curves=False)
        if self.sweeps:
            specs = {point.spec.name: point.spec for each in self.sweeps for point in each.points}
            rows = [
                row
                for each in self.sweeps
                for row in status_of_sweep(each.points, self.store, each.early_stopped, each.preempted)
            ]
            affected, text = compare_sweeps(self.sweeps, self.here)
        else:
            specs = {}
            rows = status_of_store(self.store)
            affected, text = compare(self.store, [row.name for row in rows], self.here, "of the store")

        def spec_of(name: str) -> Mapping[str, object] | None:
            return specs[name].canonical() if name in specs else self.store.run(name).spec()

        return matching(marked(rows, affected), self.states, self.conditions, spec_of), text

    def named(self, rows: Sequence[StatusRow]) -> Sequence[StatusRow]:
        """The rows, those of a store by what tells them apart if there are few."""
        from rt_scale.report.status import LISTED, listed

        return rows if self.sweeps or len(rows) > LISTED else listed(rows, self.store)

    def view(self, rows: Sequence[StatusRow]) -> Group:
        """The rows to be printed, below a table of the store's sweeps, and their numbers by state."""
        from rich.console import Group

        from rt_scale.report.status import LISTED, STYLES, count_by_sweep, listed, status_view

        chosen = bool(self.states or self.conditions)
        if self.sweeps:
            every = chosen or any(each.home is not None for each in self.sweeps)
            shown = [row for row in rows if every or row.state != "done" or row.other_data]
            to_sample = sum(each.to_sample for each in self.sweeps)
            more = [f"{to_sample} more to be sampled by explore.search"] if to_sample else []
            return Group(status_view(rows, shown), *more)
        counts = [] if chosen else count_by_sweep(rows, self.store)
        # A store may have very many missing runs: those are only counted.
        wanted = [row for row in rows if row.state != "missing" or "missing" in self.states]
        left = len(wanted) - LISTED
        more = [f"... and {left:,} more (--json lists all; --state and --where choose)"] if left > 0 else []
        top = [table_of(["sweep", "runs", *STYLES], counts)] if counts else []
        return Group(*top, status_view(rows, listed(wanted, self.store)), *more)


def _watch(look: _Look) -> None:
    """Show the status until no run is left to be done, or until Ctrl-C."""
    from rich.live import Live

    from rt_scale.report.status import ENDED

    with suppress(KeyboardInterrupt), Live(console=open_console(), auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            rows, _ = look.rows()
            live.update(look.view(rows), refresh=True)
            to_come = any(each.to_sample for each in look.sweeps)
            if not to_come and all(row.state in ENDED for row in rows):
                return
            time.sleep(max(WATCH, time.monotonic() - began))
