"""How runs stand: done, running, failed, partial or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rt_scale.spec.sweep import Point
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

STYLES = {"done": "green", "running": "cyan", "failed": "red", "partial": "yellow", "missing": "dim"}


@dataclass(frozen=True)
class RunStatus:
    """One run.

    Attributes:
        label: what varies there, or its name.
        name: its directory.
        state: done, running, failed, partial or missing.
        attempts: attempts made so far.
        detail: age of the heartbeat, or the reason of the failure.
    """

    label: str
    name: str
    state: str
    attempts: int
    detail: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def _status(label: str, run_dir: RunDir) -> RunStatus:
    status = run_dir.status()
    detail = ""
    if status.heartbeat_age is not None:
        detail = f"{status.owner}, heartbeat {status.heartbeat_age:.0f} s ago"
    elif status.state == "failed":
        detail = str((run_dir.failure() or {}).get("reason", ""))
    return RunStatus(label, run_dir.name, status.state, status.attempts, detail)


def status_of_sweep(points: Sequence[Point], store: Store) -> list[RunStatus]:
    """One status a run of the sweep, in its order."""
    return [_status(point.label, store.run(point.spec)) for point in points]


def status_of_store(store: Store) -> list[RunStatus]:
    """One status a run that was ever begun in the store."""
    return [_status(run_dir.name, run_dir) for run_dir in store]


def show_status(rows: Sequence[RunStatus], console: Console) -> None:
    """Print the runs that are not done, a row each, and the count of every state."""
    table = Table(box=None, pad_edge=False)
    for title in ("run", "state", "attempts", "", "directory"):
        table.add_column(title)
    unfinished = [row for row in rows if row.state != "done"]
    for row in unfinished:
        state = f"[{STYLES[row.state]}]{row.state}[/]"
        table.add_row(escape(row.label), state, str(row.attempts), escape(row.detail), row.name)
    if unfinished:
        console.print(table)
    counts = Counter(row.state for row in rows)
    text = ", ".join(f"[{STYLES[state]}]{counts[state]} {state}[/]" for state in STYLES if counts[state])
    console.print(f"{len(rows)} runs: {text or 'none'}", highlight=False)
