"""The rows of running runs, and the lines below them, as a terminal of any size shows them."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.table import Column, Table
from rich.text import Text

from rt_scale.progress.bars import Words
from rt_scale.system.console import broken, duration_text

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
        width, room = options.max_width, max(1, options.size.height - 1)
        notes = [line for note in self.notes() for line in _broken(note, width)][:room]
        room -= len(notes)
        names, labels = self._columns(self.tasks, console, options)
        tasks = list(zip(self.tasks, labels, strict=True))
        if sum(map(_height, labels)) > room:
            shown, used = [], 1  # the line that counts the others
            for task, label in tasks:
                used += _height(label)
                if used > room:
                    break
                shown.append((task, label))
        else:
            shown = tasks
        hidden = [Text(f"and {len(tasks) - len(shown)} more", "dim")] if len(shown) < len(tasks) else []
        if room > sum(_height(label) for _, label in shown) + len(hidden):
            yield Text()  # separates it from the lines above
        if shown:
            yield _table(shown, names)
        for line in (*hidden[:room], *notes):
            line.no_wrap, line.overflow = True, "crop"
            yield line

    @staticmethod
    def _columns(tasks: list[Task], console: Console, options: ConsoleOptions) -> tuple[list[str], list[str]]:
        """The columns that fit, and the labels, in several lines where they are too long."""
        width, names = options.max_width, list(COLUMNS)
        widest = max((cell_len(task.description) for task in tasks), default=0)
        wanted = min(widest, max(LABEL, int(SHARE * width)))
        for name in DROPPED:
            beside = _table([(task, "") for task in tasks], names)
            taken = Measurement.get(console, options.update_width(10_000), beside).maximum
            if taken + wanted <= width:
                break
            names.remove(name)
        else:
            taken = 0
        return names, ["\n".join(broken(task.description, max(1, width - taken))) for task in tasks]


def _broken(note: Text, width: int) -> list[Text]:
    """The note, in several lines where it is too long."""
    return [note] if cell_len(note.plain) <= width else [Text(line, note.style) for line in broken(note.plain, width)]


def _height(label: str) -> int:
    return label.count("\n") + 1


def _table(tasks: list[tuple[Task, str]], names: list[str]) -> Table:
    columns = [COLUMNS[name] for name in names]
    table = Table.grid(
        Column(no_wrap=True), *(each.get_table_column().copy() for each in columns), padding=(0, 2, 0, 0)
    )
    for task, label in tasks:
        table.add_row(Text(label), *(column(task) for column in columns))
    return table


def shorten(text: str, width: int) -> str:
    """The text, its middle replaced by ``...`` if it is wider than ``width`` characters."""
    if cell_len(text) <= width:
        return text
    if width <= 5:
        return set_cell_size(text, width)
    tail = (width - 3) // 2
    return f"{set_cell_size(text, width - 3 - tail)}...{set_cell_size(text[::-1], tail)[::-1]}"
