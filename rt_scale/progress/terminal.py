"""The live view of a sweep: running runs as a table in a terminal, finished runs as lines; in a pipe, lines alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from rt_scale.progress.state import DONE, FAILED, STOPPED, Row, Standing, plain, shorten
from rt_scale.scheduler.job import RunReport
from rt_scale.system.console import PlainConsole, duration_text

COLUMNS = ("bar", "percent", "rate", "left", "where", "stage", "probes")
"""What stands beside the label, from left to right."""
DROPPED = ("bar", "stage", "rate", "probes", "where", "left", "percent")
"""What a narrow terminal does without, first to last."""
STYLES = {"where": "dim", "stage": "dim", "rate": "dim"}
BAR = 10
LABEL, SHARE = 24, 0.4
"""Characters of a label that are worth a column, and the part of a terminal that is."""
GAP = "  "


class LiveTable:
    """Rows and notes, cut to the terminal that they are drawn on (a renderable).

    Args:
        rows: runs that are running.
        notes: lines below, the most important first.
        now: in seconds, as the rows' paces count.
    """

    def __init__(self, rows: Sequence[Row], notes: Sequence[Text], now: float) -> None:
        self._rows, self._notes, self._now = rows, notes, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line less than the terminal has: the cursor wants a place, too."""
        room = max(1, options.size.height - 1)
        notes = self._notes[:room]
        room -= len(notes)
        shown = self._rows if len(self._rows) <= room else self._rows[: max(0, room - 1)]
        lines = _lines(shown, self._now, options.max_width, "-" if options.ascii_only else "\u2501")
        if room and len(shown) < len(self._rows):
            lines.append(Text(f"and {len(self._rows) - len(shown)} more", style="dim"))
        apart = [Text()] if room > len(lines) else []  # from what scrolls by above
        for line in (*apart, *lines, *notes):
            line.no_wrap, line.overflow = True, "crop"
            yield line


def _lines(rows: Sequence[Row], now: float, width: int, mark: str) -> list[Text]:
    cells = [row.cells(now) for row in rows]
    widths = {name: max(map(cell_len, column), default=0) for name in COLUMNS if (column := [c[name] for c in cells])}
    widths["bar"] = BAR if widths.get("percent") else 0
    widest = max((cell_len(row.label) for row in rows), default=0)
    wanted = min(widest, max(LABEL, int(SHARE * width)))

    def beside() -> int:
        return sum(each + len(GAP) for each in widths.values() if each)

    for name in DROPPED:
        if beside() + wanted <= width:
            break
        widths[name] = 0
    label = min(widest, max(1, width - beside()))
    return [_line(row, each, label, widths, mark) for row, each in zip(rows, cells, strict=True)]


def _line(row: Row, cells: dict[str, str], label: int, widths: dict[str, int], mark: str) -> Text:
    line = Text(set_cell_size(shorten(row.label, label), label))
    for name in COLUMNS:
        if not widths[name]:
            continue
        line.append(GAP)
        if name == "bar" and row.steps:
            done = BAR * row.step // row.steps
            line.append(mark * done, style="cyan").append(mark * (BAR - done), style="bar.back")
        elif name in ("rate", "left"):
            line.append(" " * (widths[name] - cell_len(cells[name])) + cells[name], style=STYLES.get(name, ""))
        else:
            line.append(set_cell_size(cells[name], widths[name]), style=STYLES.get(name, ""))
    return line


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
        log: where Ray's messages go, which is said first.
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
            redirect_stdout=False,  # what others print there is not for this console
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

    def running(self, label: str, report: RunReport) -> None:
        """Update the row of a run, and keep a warning as a line."""
        if report.warnings:
            self._print(f"warning {plain(label)}: {plain(' '.join(report.warnings))}", "yellow")
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
