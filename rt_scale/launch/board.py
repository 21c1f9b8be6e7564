"""TensorBoard on the comparison view of sweeps, or on every run of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from rt_scale.launch.comparison import Loaded, refresh_board
from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.store.board_server import serve
from rt_scale.store.store import Store

LOOK = 30.0
"""Seconds between two looks at an object store; each asks for the names of all that is in it."""


def open_board(
    sweeps: Sequence[Loaded],
    store: Store,
    *,
    host: str,
    port: int | None,
    say: Callable[[str], None],
    every_run: bool = False,
    figures: Callable[[], None] | None = None,
    interval: float = 5.0,
) -> None:
    """Serve until interrupted; runs that begin meanwhile appear.

    Args:
        sweeps: sweeps with their runs; none shows the store's run directories.
        store: where runs are kept.
        host: address to listen on.
        port: port; 0 takes a free one, None 6006 or the next free one.
        say: receives the lines that name the address, and what is there to be seen.
        every_run: whether runs are shown by themselves, and not only the means of configurations.
        figures: brings the reports' figures up to date; called again and again while the board is open.
        interval: seconds between two looks at what was computed meanwhile.

    Raises:
        InputError: where there is nothing to show, two sweeps have one name, or the port is taken.
    """
    names = [sweep.name for sweep, _ in sweeps]
    if len({*names}) < len(names):
        raise InputError(f"Sweeps that are shown together need names of their own; given: {', '.join(names)}.")
    store.refresh()
    folder = refresh_board(sweeps, store, every_run=every_run) if sweeps else _runs(store)

    def refresh() -> None:
        with contextlib.suppress(StoreAway):  # it comes back
            store.refresh(younger=LOOK)
        if figures is not None:
            figures()
        if sweeps:
            refresh_board(sweeps, store, every_run=every_run)

    def ready(address: str) -> None:
        say(f"TensorBoard: {address} (Ctrl-C ends it)")
        if sweeps and not every_run:
            say("It shows means over seeds, and under Images the report's figures; --runs shows the runs themselves.")

    title = ", ".join(names) or store.root.name
    serve(folder, ready, title=title, port=port, host=host, refresh=refresh, interval=interval)


def _runs(store: Store) -> Path:
    """The folder of all runs."""
    folder = store.root / "runs"
    if not folder.is_dir():
        raise InputError(f"There are no runs in '{store.place}'. Run a sweep first, or name the store with --store.")
    return folder
