"""The live view of a sweep: what runs as a table in a terminal, what finished as lines; in a pipe, lines alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from rt_scale.progress.eta import duration_text
from rt_scale.progress.state import DONE, FAILED, STOPPED, Standing, plain
from rt_scale.progress.table import LiveTable
from rt_scale.system.console import PlainConsole

QUIET = 30.0
"""Seconds between two summaries in a pipe, at least."""
REFRESH = 0.25
"""Seconds between two pictures in a terminal, at least."""


class SweepView:
    """Finished runs stay as lines; what runs and a summary are drawn below (a View, and a context manager).

    In a pipe there is a line a finished run, and a summary now and then.

    Args:
        console: terminal or pipe.
        total: runs of the sweep.
        done_before: those of them that were complete before.
        log: where Ray's chatter goes, which is said first.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        console: PlainConsole,
        total: int,
        done_before: int,
        log: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock, self._log = console, clock, log
        self._draws = console.is_terminal and console.is_interactive
        self._drawn = self._summed = clock()
        self._standing = Standing(total, done_before, self._drawn)
        self._live = Live(
            self,
            console=console,
            auto_refresh=False,  # the driver's thread alone draws, as it alone changes what is drawn
            transient=True,
            redirect_stdout=False,  # what others write there is chatter, and not for this console
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> SweepView:
        if self._log is not None:
            self.said(f"Ray's log: {self._log}")
        if self._draws:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = self._clock()
        yield LiveTable(self._standing.rows, self._standing.notes(now), now)

    def running(self, label: str, report: Mapping[str, Any]) -> None:
        """Update the row of a run, and keep a warning as a line."""
        if report.get("warning"):
            self._print(f"warning {plain(label)}: {plain(report['warning'])}", "yellow")
        self._standing.report(label, report, self._clock())
        self.tick()

    def waiting(self, label: str, why: str, seconds: float | None, *, held: bool = False) -> None:
        """Count a run as waiting; a line says so, unless it is held elsewhere and had not been running here."""
        had_been_running = self._standing.wait(label, why, seconds, self._clock())
        if had_been_running or not held:
            again = "" if seconds is None else f", again in {duration_text(seconds)}"
            self._print(f"waiting {plain(label)}: {plain(why)}{again}", "yellow")
        self.tick()

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None) -> None:
        """Turn the row of a run into a line."""
        settled = self._standing.settle(label, DONE if error is None else FAILED, values or {}, self._clock())
        if settled is not None and error is None:
            self._print(_joined(f"{settled.place} {plain(label)}", settled.probes, settled.took))
        elif settled is not None:
            self._print(f"{settled.place} {plain(label)}  FAILED: {plain(error or '')}", "red")
        self.tick()

    def stopped(self, label: str, why: str) -> None:
        """Turn the row of a run that was ended early into a line."""
        settled = self._standing.settle(label, STOPPED, {}, self._clock())
        if settled is not None:
            early = f"{STOPPED}: {plain(why)}"
            self._print(_joined(f"{settled.place} {plain(label)}", early, settled.probes, settled.took))
        self.tick()

    def added(self, count: int) -> None:
        """Count more runs, or fewer."""
        self._standing.total += count
        self.tick()

    def tick(self) -> None:
        """Draw anew in a terminal; in a pipe, say now and then how the sweep stands."""
        now = self._clock()
        if self._draws:
            if now - self._drawn >= REFRESH:
                self._drawn = now
                self._live.refresh()
        elif now - self._summed >= QUIET:
            self._summed = now
            self._print(self._standing.line(now))

    def said(self, text: str) -> None:
        """Keep the text as a line."""
        self._print(plain(text), "dim")

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)


def _joined(*parts: str) -> str:
    return "  ".join(part for part in parts if part)
