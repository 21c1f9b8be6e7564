"""The TensorBoard server."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

from rt_scale.spec.errors import InputError
from rt_scale.system.signals import stopping_on_signals

LOOK = 0.2
"""Seconds between two checks whether to end the server."""


def serve(
    logdir: Path,
    ready: Callable[[str], None],
    *,
    title: str,
    port: int | None = None,
    host: str = "localhost",
    refresh: Callable[[], None] | None = None,
    interval: float = 5.0,
) -> None:
    """Show ``logdir`` in TensorBoard until interrupted (Ctrl-C, SIGTERM, SIGHUP); from the main thread only.

    Args:
        ready: called once with the address to open.
        title: of the browser window.
        port: 0: any free port; None: 6006 or the next free one.
        refresh: called every ``interval`` seconds to update ``logdir``.

    Raises:
        InputError: if the port is in use or not allowed.
    """
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    arguments = ["--logdir", str(logdir), "--host", host, "--window_title", f"rt-scale: {title}"]
    arguments += ["--reload_interval", f"{interval:g}"] + ([] if port is None else ["--port", str(port)])
    server = program.TensorBoard(default.get_plugins())
    server.configure(argv=["tensorboard", *arguments])
    try:
        # TensorBoard prints a note on how it loads data at any log level.
        with contextlib.redirect_stderr(StringIO()):
            address = server.launch()
    except program.TensorBoardServerException as error:
        problem = error.msg.strip()
        raise InputError(f"TensorBoard cannot start: {problem} Choose another port with --port.") from error
    # The first signal raises no exception: callbacks from libraries would swallow it.
    with contextlib.suppress(KeyboardInterrupt), stopping_on_signals(lambda text: None) as asked:
        ready(address)
        while not _waited(interval, asked):
            if refresh is not None:
                refresh()


def _waited(seconds: float, asked: Callable[[], bool]) -> bool:
    """Wait for ``seconds``, or until ``asked()``; returns ``asked()``."""
    until = time.monotonic() + seconds
    while not asked() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, LOOK))
    return asked()
