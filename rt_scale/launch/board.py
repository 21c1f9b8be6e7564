"""TensorBoard on a sweep's comparison view, or on every run of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from rt_scale.launch.comparison import refresh_board
from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.spec.sweep import Point, SweepSpec
from rt_scale.store.board_server import serve
from rt_scale.store.store import Store

LOOK = 30.0
"""Seconds between two looks at an object store; each asks for the names of all that is in it."""


def open_board(
    loaded: tuple[SweepSpec, Sequence[Point]] | None,
    store: Store,
    *,
    host: str,
    port: int | None,
    say: Callable[[str], None],
) -> None:
    """Serve until interrupted; runs that begin meanwhile appear.

    Args:
        loaded: a sweep and its runs; None shows the store's run directories.
        store: where runs are kept.
        host: address to listen on.
        port: port; 0 takes a free one, None 6006 or the next free one.
        say: receives the line that names the address.

    Raises:
        InputError: where there is nothing to show, or the port is taken.
    """
    store.refresh()
    if loaded is None:
        folder = store.root / "runs"
        if not folder.is_dir():
            raise InputError(
                f"There are no runs in '{store.place}'. Run a sweep first, or name the store with --store."
            )
    else:
        folder = refresh_board(*loaded, store)

    def refresh() -> None:
        with contextlib.suppress(StoreAway):  # it comes back
            store.refresh(younger=LOOK)
        if loaded is not None:
            refresh_board(*loaded, store)

    serve(
        folder,
        lambda address: say(f"TensorBoard: {address} (Ctrl-C ends it)"),
        port=port,
        host=host,
        refresh=refresh,
    )
