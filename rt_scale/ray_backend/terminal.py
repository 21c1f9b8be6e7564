"""Sweeps with their progress in the terminal or notebook; Ray's own output goes to a log in the sweep's folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from rt_scale.progress.terminal import SweepView
from rt_scale.ray_backend.output import NAME, console_on, output_to
from rt_scale.ray_backend.sweep import SweepOutcome, run_sweeps
from rt_scale.scheduler.job import Where
from rt_scale.spec.errors import ExitCode
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.system.signals import stopping_on_signals

SHOW_CURSOR = "\x1b[?25h"


def run_shown(
    sweeps: Sequence[SweepRuns],
    where: Where,
    failed: Callable[[str, str, Mapping[str, int]], None] = lambda label, why, counts: None,
    lost: Callable[[str], None] = lambda why: None,
    *,
    show: bool = True,
) -> list[SweepOutcome]:
    """Execute sweeps as :func:`run_sweeps`, until a signal asks to stop.

    Meanwhile file descriptors 1 and 2 of this process are ``ray.log`` in the folder of the first sweep.

    Args:
        failed: see ``SweepView``.
        lost: called with a paragraph from another thread, before the process ends as the cluster was lost.
        show: whether to show progress on standard output.

    Raises:
        InputError, RunError, KeyboardInterrupt: as of :func:`run_sweeps`.
    """
    log = where.store.sweep(sweeps[0].spec.name).path / NAME

    @contextmanager
    def view(total: int, done_before: int) -> Iterator[SweepView]:
        with output_to(log) as out:
            console = console_on(out)
            console.quiet = not show
            with SweepView(console, total, done_before, log, failed=failed) as shown:
                yield shown

    error = os.dup(2)
    try:
        with stopping_on_signals(lambda text: None) as stopping:
            return run_sweeps(sweeps, where, view, stopping, _says_lost(error, lost))
    finally:
        os.close(error)


def _says_lost(error: int, tell: Callable[[str], None]) -> Callable[[str], None]:
    """A function that ends this process with ``ExitCode.CLUSTER_LOST``, after its text was written to ``error``.

    ``error`` is a file descriptor; ``tell`` gets the text, too.
    """

    def lost(text: str) -> None:
        with suppress(OSError):  # the reader may have ended
            os.write(error, f"{SHOW_CURSOR if os.isatty(error) else ''}rt-scale: {text}\n".encode())
        tell(text)
        os._exit(ExitCode.CLUSTER_LOST)

    return lost
