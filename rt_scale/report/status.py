"""How runs stand: done, running, failed, partial or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rt_scale.spec.sweep import Point
from rt_scale.spec.wording import counted
from rt_scale.store.store import Store

STYLES = {
    "done": "green", "running": "cyan", "failed": "red", "ended": "blue", "partial": "yellow", "missing": "dim",
}  # fmt: skip


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        label: what varies there, or its name.
        name: its directory.
        state: done, running, failed, ended (early, by its sweep's rule), partial or missing.
        attempts: attempts made so far.
        detail: age of the heartbeat, the reason of the failure or of the early end, or, in a whole store, the sweep
            of a missing run.
    """

    label: str
    name: str
    state: str
    attempts: int
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _status(label: str, name: str, store: Store) -> RunStatus:
    status = store.status(name)
    detail = ""
    if status.heartbeat_age is not None:
        detail = f"{status.owner}, heartbeat {status.heartbeat_age:.0f} s ago"
    elif status.state == "failed":
        detail = str((store.run(name).failure() or {}).get("reason", ""))
    return RunStatus(label, name, status.state, status.attempts, detail)


def status_of_sweep(points: Sequence[Point], store: Store, ended: Mapping[str, str] | None = None) -> list[RunStatus]:
    """One status a run of the sweep, in its order; ``ended`` is why runs were ended early, by name."""
    early = ended or {}
    rows = []
    for point in points:
        row = _status(point.label, point.spec.name, store)
        if row.state == "partial" and row.name in early:
            row = replace(row, state="ended", detail=early[row.name])
        rows.append(row)
    return rows


def status_of_store(store: Store) -> list[RunStatus]:
    """One status a run that was ever begun in the store, by name, then one a run that a sweep still lacks."""
    rows = [_status(name, name, store) for name in store.names()]
    begun = {row.name: row for row in rows if row.state != "missing"}
    missing: dict[str, RunStatus] = {}
    for sweep in store.sweeps():
        for name in sweep.runs():
            if name not in begun:
                missing.setdefault(name, RunStatus(name, name, "missing", 0, f"of sweep {sweep.name}"))
    return [*begun.values(), *missing.values()]


def count_by_sweep(rows: Sequence[RunStatus], store: Store) -> list[tuple[str, ...]]:
    """For every sweep of the store its name and how many of its runs are in each state.

    Args:
        rows: of the whole store.
        store: the store.

    Returns:
        Rows of text under the titles ``sweep``, ``runs`` and the states; empty where there are no sweeps.
    """
    states = {row.name: row.state for row in rows}
    counts = {sweep.name: Counter(states[name] for name in sweep.runs() if name in states) for sweep in store.sweeps()}
    counts = {name: count for name, count in counts.items() if count}
    return [(name, str(count.total()), *(str(count[state]) for state in STYLES)) for name, count in counts.items()]


def show_status(rows: Sequence[RunStatus], console: Console, quiet: Collection[str] = ("done",)) -> None:
    """Print the runs, a row each, but for those in the states ``quiet``, and the count of every state."""
    table = Table(box=None, pad_edge=False)
    shown = [row for row in rows if row.state not in quiet]
    labelled = any(row.label != row.name for row in shown)
    for title in ("run", "state", "attempts", "", *(["directory"] if labelled else [])):
        table.add_column(title)
    for row in shown:
        state = f"[{STYLES[row.state]}]{row.state}[/]"
        table.add_row(
            escape(row.label), state, str(row.attempts), escape(row.detail), *([row.name] if labelled else [])
        )
    if shown:
        console.print(table)
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"[{STYLES[state]}]{counts[state]} {state}[/]" for state in STYLES if counts[state])
    console.print(f"{counted(len(rows), 'run')}: {text or 'none'}", highlight=False)
