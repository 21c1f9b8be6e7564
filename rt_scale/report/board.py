"""Opens TensorBoard on the comparison view of sweeps, or of every run of a store."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from rt_scale.scheduler.comparison import all_points, board_figures, board_runs, refresh_board
from rt_scale.spec.errors import StoreUnavailable
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names, store_runs
from rt_scale.tensorboard.server import serve
from rt_scale.tensorboard.sweep_view import MEANS, SWEEP, first_lines

MOST_TICKED = 40
"""Outside Time Series, TensorBoard initially ticks all runs up to this number; of more, none."""
FIRST = ("probe/student/linear", "probe/student/knn")
"""The charts that people look at first."""
LOOK = 30.0
"""Seconds between two listings of an object store; each lists all its names."""


def open_board(
    sweeps: Sequence[SweepRuns],
    store: Store,
    *,
    host: str,
    port: int | None,
    say: Callable[[str], None],
    show: Callable[[str], None] | None = None,
    every_run: bool = False,
    interval: float = 5.0,
) -> None:
    """Serve until interrupted; new runs appear while it serves.

    Args:
        sweeps: of that store; none shows every run of the store, named by the fields in which they differ.
        port: 0: any free port; None: 6006 or the next free one.
        say: receives lines with the address and hints.
        show: opens the address in a browser; None: nothing does.
        every_run: whether to show single runs, and not only the means of configurations.
        interval: seconds between two updates.

    Raises:
        InputError: if there is nothing to show, two sweeps have one name, or the port is taken.
    """
    refuse_equal_names(sweeps, "shown together")
    store.refresh()
    single = every_run or not sweeps

    def draw() -> Path:
        # Of a whole store anew: runs may have been begun.
        return refresh_board(sweeps or [store_runs(store)], every_run=single)

    folder = draw()

    def refresh() -> None:
        with contextlib.suppress(StoreUnavailable):  # retried at the next refresh
            store.refresh(younger=LOOK)
        draw()

    def ready(address: str) -> None:
        say(f"TensorBoard: {address} (Ctrl-C ends it)")
        opened = sweeps or [store_runs(store)]
        first = pinned(address, opened)
        if first != address:
            say(f"  Students' curves, pinned and not smoothed: {first}")
        if show is not None:
            show(first)
        for line in _hints(address, single, board_figures(sweeps)):
            say(line)
        if len(os.listdir(folder)) > MOST_TICKED:
            say(_intervals(address, single, first_lines(board_runs(all_points(opened), store))))

    title = ", ".join(sweep.name for sweep in sweeps) or store.root.name
    serve(folder, ready, title=title, port=port, host=host, refresh=refresh, interval=interval)


def pinned(address: str, sweeps: Sequence[SweepRuns]) -> str:
    """The address at which the students' charts of the linear and the kNN probe stand on top, without smoothing.

    The address as given if no run has them.
    """
    logged = {name for sweep in sweeps for point in sweep.points for name in point.spec.logged}
    cards = [{"plugin": "scalars", "tag": name} for name in FIRST if name in logged]
    if not cards:
        return address
    return f"{address}?pinnedCards={quote(json.dumps(cards, separators=(',', ':')))}&smoothing=0#timeseries"


def _hints(address: str, every_run: bool, drawn: Mapping[str, Path]) -> list[str]:
    shown = "Every run, and the means over seeds." if every_run else "The means over seeds; --runs shows every run."
    figures = f"Figures of the report (a click enlarges one): {address}#images&regexInput={quote(f'^{SWEEP}$')}"
    return [f"  {shown}", f"  {figures if drawn else 'No figures: no report was made yet (rt-scale report FILE).'}"]


def _intervals(address: str, every_run: bool, names: Sequence[str]) -> str:
    """Where the intervals of those configurations are drawn, of which each is found by its number."""
    numbers = "|".join(name.partition(" ")[0] for name in names)
    pattern = quote(f"^{MEANS}/({numbers}) " if every_run else f"^({numbers}) ")
    return (f"  Intervals of some (Custom Scalars draws no run of more than {MOST_TICKED} unless it is ticked "
            f"or matches a filter): {address}#custom_scalars&regexInput={pattern}")  # fmt: skip
