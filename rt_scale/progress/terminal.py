"""The live view of a sweep: a line per finished run and, in a terminal or notebook, a table of running runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column, Table
from rich.text import Text

from rt_scale.progress.bars import Words
from rt_scale.progress.state import DONE, FAILED, STOPPED, SweepState, plain
from rt_scale.scheduler.job import View
from rt_scale.system.console import PlainConsole, duration_text

if TYPE_CHECKING:
    from rt_scale.scheduler.job import RunReport

QUIET = 30.0
"""Least seconds between two summaries in a pipe."""
REFRESH = 0.25
"""Least seconds between two redraws in a terminal."""
LABEL, SHARE = 24, 0.4
"""Columns are dropped until labels have this many characters or this share of the width, whichever is more."""
CELL = 24
"""Most characters of a device or stage."""

COLUMNS: dict[str, ProgressColumn] = {
    "bar": BarColumn(bar_width=10),
    "percent": Words(lambda run: f"{100 * run.completed // run.total:3.0f} %" if run.total else ""),
    "rate": Words(
        lambda run: f"{run.speed:,.{0 if run.speed >= 10 else 1}f} steps/s" if run.speed else "",
        style="dim", justify="right",
    ),
    "left": Words(
        lambda run: "" if run.time_remaining is None else f"{duration_text(run.time_remaining)} left", justify="right"
    ),
    "where": Words(lambda run: shorten(run.fields["where"], CELL), style="dim"),
    "stage": Words(lambda run: shorten(run.fields["stage"], CELL), style="dim"),
    "probes": Words(lambda run: ", ".join(f"{each.kind} {100 * each.value:.1f}" for each in run.fields["scores"])),
}  # fmt: skip
"""The columns beside the label, from left to right."""
DROPPED = ("bar", "stage", "rate", "probes", "where", "left", "percent")
"""The order in which a narrow terminal drops columns."""


class SweepProgress(Progress):
    """One row per running run, and below it the lines of ``notes``, the most important first.

    It is never wider or taller than the terminal.
    """

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self.notes: Callable[[], list[Text]] = list
        super().__init__(
            console=console,
            auto_refresh=False,  # only the driver's thread changes the rows, so only it draws
            speed_estimate_period=float("inf"),
            transient=True,
            redirect_stdout=False,  # other output on stdout is not for this console
            redirect_stderr=False,
            get_time=clock,
        )

    def refresh(self) -> None:
        """Do nothing when a task changes: the view redraws every ``REFRESH`` seconds."""

    def get_renderable(self) -> RenderableType:
        """Itself, so that it is also up to date when a line is printed above it."""
        return self

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Use one line less than the terminal has: the cursor needs one."""
        room = max(1, options.size.height - 1)
        notes = self.notes()[:room]
        room -= len(notes)
        shown = self.tasks if len(self.tasks) <= room else self.tasks[: max(0, room - 1)]
        hidden = [Text(f"and {len(self.tasks) - len(shown)} more", style="dim")] if len(shown) < len(self.tasks) else []
        lines = len(shown) + len(hidden)
        if room > lines:
            yield Text()  # separates it from the lines above
        if shown:
            yield self._fitting_table(shown, console, options)
        for line in (*hidden[:room], *notes):
            line.no_wrap, line.overflow = True, "crop"
            yield line

    def _fitting_table(self, tasks: list[Task], console: Console, options: ConsoleOptions) -> Table:
        width = options.max_width
        widest = max(cell_len(task.description) for task in tasks)
        wanted = min(widest, max(LABEL, int(SHARE * width)))
        names = list(COLUMNS)
        for name in DROPPED:
            beside = self._table(tasks, names, 0)
            taken = Measurement.get(console, options.update_width(10_000), beside).maximum
            if taken + wanted <= width:
                break
            names.remove(name)
        else:
            taken = 0
        return self._table(tasks, names, min(widest, max(1, width - taken)))

    @staticmethod
    def _table(tasks: list[Task], names: list[str], label: int) -> Table:
        columns = [COLUMNS[name] for name in names]
        table = Table.grid(
            Column(no_wrap=True), *(each.get_table_column().copy() for each in columns), padding=(0, 2, 0, 0)
        )
        for task in tasks:
            table.add_row(Text(shorten(task.description, label)), *(column(task) for column in columns))
        return table


class SweepView(View):
    """Prints a line per finished run and draws running runs and a summary below (a View and a context manager).

    In a pipe it prints the summary at times. ``log``, the file of Ray's messages, is named first. ``failed`` is called
    with the label of each run that fails, why, and the number of runs in all and by state.
    """

    def __init__(
        self,
        console: PlainConsole,
        total: int,
        done_before: int,
        log: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        failed: Callable[[str, str, Mapping[str, int]], None] = lambda label, why, counts: None,
    ) -> None:
        self._console, self._clock, self._log, self._failed = console, clock, log, failed
        self._draws = (console.is_terminal and console.is_interactive) or console.is_jupyter
        self._drawn = self._summed = clock()
        self.progress = SweepProgress(console, clock)
        self._state = SweepState(total, done_before, self.progress)
        self.progress.notes = self._state.notes

    def __enter__(self) -> SweepView:
        if self._log is not None:
            self.said(f"Ray's log: {self._log}")
        if self._draws:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.live.stop()

    def running(self, label: str, report: RunReport) -> None:
        """Update the row of a run, and print its warnings."""
        if report.warnings:
            self._print(f"warning {plain(label)}: {plain(' '.join(report.warnings))}", "yellow")
        self._state.report(label, report)
        self.tick()

    def waiting(self, label: str, why: str, seconds: float | None, *, leased_elsewhere: bool = False) -> None:
        """Count a run as waiting; print a line, unless it runs elsewhere and was not running here."""
        had_been_running = self._state.wait(label, why, seconds)
        if had_been_running or not leased_elsewhere:
            again = "" if seconds is None else f", again in {duration_text(seconds)}"
            self._print(f"waiting {plain(label)}: {plain(why)}{again}", "yellow")
        self.tick()

    def finished(self, label: str, error: str | None, values: Mapping[str, float] | None = None) -> None:
        """Turn the row of a run into a line."""
        if error is None:
            self._print(self._state.finish(label, DONE, values=values))
        elif line := self._state.finish(label, FAILED, f"FAILED: {error}"):
            self._print(line, "red")
            self._failed(label, error, self._state.counts)
        self.tick()

    def stopped(self, label: str, why: str) -> None:
        """Turn the row of a run that was ended early into a line."""
        self._print(self._state.finish(label, STOPPED, f"{STOPPED}: {why}"))
        self.tick()

    def added(self, count: int) -> None:
        """Count more runs, or fewer."""
        self._state.total += count
        self.tick()

    def tick(self) -> None:
        """Redraw in a terminal; in a pipe, print a summary every ``QUIET`` seconds."""
        now = self._clock()
        if self._draws:
            if now - self._drawn >= REFRESH:
                self._drawn = now
                self.progress.live.refresh()
        elif now - self._summed >= QUIET:
            self._summed = now
            self._print(self._state.line())

    def said(self, text: str) -> None:
        """Print the text as a line."""
        self._print(plain(text), "dim")

    def _print(self, text: str, style: str = "") -> None:
        if text:
            self._console.print(Text(text, style=style), soft_wrap=True)


def shorten(text: str, width: int) -> str:
    """The text, its middle replaced by ``...`` if it is wider than ``width`` characters."""
    if cell_len(text) <= width:
        return text
    if width <= 5:
        return set_cell_size(text, width)
    tail = (width - 3) // 2
    return f"{set_cell_size(text, width - 3 - tail)}...{set_cell_size(text[::-1], tail)[::-1]}"
