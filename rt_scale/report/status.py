"""The states of runs: done, running, failed, ended, partial or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Group
from rich.text import Text

from rt_scale.experiments.other_data import Affected
from rt_scale.spec.differences import Condition, points_of, told_apart
from rt_scale.spec.errors import counted
from rt_scale.spec.grid import Point
from rt_scale.store.store import Preemptions, Store
from rt_scale.store.sweep_runs import EarlyStop, SweepRuns, stored_specs
from rt_scale.system.console import PlainConsole
from rt_scale.system.tables import FittedTable

STYLES = {
    "done": "green", "running": "cyan", "failed": "red", "ended": "blue", "partial": "yellow", "missing": "dim",
}  # fmt: skip
ENDED = ("done", "failed", "ended")
"""States of a run that a sweep does not execute any more."""
LISTED = 200
"""Most runs of a store that are listed, and read to be named."""


@dataclass(frozen=True)
class StatusRow:
    """One run.

    Attributes:
        label: the values of the sweep's axes, or the fields in which the listed runs differ, or the run's name.
        state: done, running, failed, ended (early, by its sweep's rule), partial or missing.
        detail: age of the heartbeat, reason of the failure or early end, or the sweep of a missing run in a store.
        other_data: in words, data sets whose contents here differ from those of the run; else empty.
    """

    label: str
    name: str
    state: str
    attempts: int
    detail: str
    other_data: str = ""

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def _status(label: str, name: str, store: Store) -> StatusRow:
    status = store.status(name)
    detail = ""
    if status.state == "running":
        detail = f"{status.owner}, {status.heartbeat}"
    elif status.state == "failed":
        detail = str((store.run(name).failure() or {}).get("reason", ""))
    return StatusRow(label, name, status.state, status.attempts, detail)


def status_of_sweep(
    points: Sequence[Point],
    store: Store,
    ended: Mapping[str, EarlyStop] | None = None,
    preempted: Mapping[str, Preemptions] | None = None,
) -> list[StatusRow]:
    """One row per run of the sweep, in order; by name, ``ended`` those ended early, ``preempted`` that lost nodes."""
    early, lost = ended or {}, preempted or {}
    rows = []
    for point in points:
        row = _status(point.label, point.spec.name, store)
        if row.state == "partial" and row.name in early:
            row = replace(row, state="ended", detail=str(early[row.name]))
        elif row.state == "partial" and row.name in lost:
            row = replace(row, detail=f"preempted: {lost[row.name]}")
        rows.append(row)
    return rows


def marked(rows: Sequence[StatusRow], affected: Mapping[str, Affected]) -> list[StatusRow]:
    """The rows, with a mark on runs whose data differs from the local data."""
    return [replace(row, other_data=affected[row.name].mark) if row.name in affected else row for row in rows]


def status_of_store(store: Store) -> list[StatusRow]:
    """One row per run that was begun in the store, by name, then one per missing run of a sweep."""
    rows = [_status(name, name, store) for name in store.names()]
    begun = {row.name: row for row in rows if row.state != "missing"}
    missing: dict[str, StatusRow] = {}
    for sweep in store.sweeps():
        for name in sweep.runs():
            if name not in begun:
                missing.setdefault(name, StatusRow(name, name, "missing", 0, f"of sweep {sweep.name}"))
    return [*begun.values(), *missing.values()]


def matching(
    rows: Sequence[StatusRow],
    states: Collection[str],
    conditions: Sequence[Condition],
    spec_of: Callable[[str], Mapping[str, object] | None],
) -> list[StatusRow]:
    """The rows in one of ``states`` (empty: any) whose canonical specs, where known, meet all ``conditions``."""
    found = [row for row in rows if not states or row.state in states]
    if not conditions:
        return found
    specs = ((row, spec_of(row.name)) for row in found)
    return [row for row, spec in specs if spec is not None and all(each.holds(spec) for each in conditions)]


def listed(rows: Sequence[StatusRow], store: Store) -> list[StatusRow]:
    """The first :data:`LISTED` rows, those that are not done before those that are, named by what tells them apart."""
    kept = sorted(rows, key=lambda row: row.state == "done")[:LISTED]
    specs = stored_specs([row.name for row in kept], store)
    points = told_apart(points_of(list(specs.values())))
    labels = {name: point.label for name, point in zip(specs, points, strict=True)}
    return [replace(row, label=labels.get(row.name, row.name)) for row in kept]


def count_by_sweep(rows: Sequence[StatusRow], store: Store) -> list[tuple[str, ...]]:
    """Per sweep of the store: its name, its number of runs and the number in each state, as text."""
    states = {row.name: row.state for row in rows}
    counts = {sweep.name: Counter(states[name] for name in sweep.runs() if name in states) for sweep in store.sweeps()}
    counts = {name: count for name, count in counts.items() if count}
    return [(name, str(count.total()), *(str(count[state]) for state in STYLES)) for name, count in counts.items()]


def count_states(sweep: SweepRuns) -> dict[str, int]:
    """The number of runs of the sweep, and of those in each state."""
    states = Counter(row.state for row in status_of_sweep(sweep.points, sweep.store, sweep.early_stopped))
    return {"runs": states.total(), **{state: states[state] for state in STYLES}}


def show_status(rows: Sequence[StatusRow], console: PlainConsole) -> None:
    """Print a row per run that is not done, or whose data differs from the local data, and the count of every state."""
    console.print(status_view(rows, [row for row in rows if row.state != "done" or row.other_data]))


def status_view(rows: Sequence[StatusRow], shown: Sequence[StatusRow]) -> Group:
    """A table of the ``shown`` rows, and below it the count of every state of all ``rows``."""
    labelled = any(row.label != row.name for row in shown)
    lines: list[list[str | Text]] = []
    for row in shown:
        state = Text(row.state, style=STYLES[row.state])
        detail = "; ".join(part for part in (row.other_data, row.detail) if part)
        lines.append([row.label, state, str(row.attempts), detail, *([row.name] if labelled else [])])
    table = FittedTable(["run", "state", "attempts", "", *(["directory"] if labelled else [])], lines)
    counts = Counter(row.state for row in rows)
    states = [Text(f"{counts[state]} {state}", style=STYLES[state]) for state in STYLES if counts[state]]
    other = sum(bool(row.other_data) for row in rows)
    count = Text.assemble(
        f"{counted(len(rows), 'run')}: ",
        Text(", ").join(states) if states else "none",
        f"; {other} on other data" if other else "",
    )
    return Group(table, count) if shown else Group(count)
