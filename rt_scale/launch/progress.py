"""Progress in the terminal: a bar for one run, lines and a live table for a sweep. Plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rt_scale.spec.metric_names import parse_probe_name

QUIET = 30.0
"""Seconds after which a sweep in a pipe says that it is alive."""
SHOWN = ("linear", "knn")
"""Probes in progress bars and lines."""


def probe_text(values: Mapping[str, float]) -> str:
    """Student and teacher accuracies in percent, as far as they are known; those of a classifier itself first.

    On the data set that is distilled on, or, where that is not probed, on the others.
    """
    parts = [f"test accuracy {100 * values['test/accuracy']:.1f}"] if "test/accuracy" in values else []
    found = [name for name in map(parse_probe_name, values) if name and name.role == "student" and name.probe in SHOWN]
    main = [name for name in found if name.data is None]
    for name in sorted(main or found, key=lambda each: (each.data or "", SHOWN.index(each.probe))):
        teacher = values.get(str(name._replace(role="teacher")))
        against = "" if teacher is None else f" (teacher {100 * teacher:.1f})"
        where = "" if name.data is None else f" on {name.data}"
        parts.append(f"{name.probe}{where} {100 * values[str(name)]:.1f}{against}")
    return ", ".join(parts)


class RunBar:
    """The progress bar of one run (an Observer); a context manager. In a pipe: a line each probing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("starting", total=None, values="")
        self._values: dict[str, float] = {}

    def __enter__(self) -> RunBar:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def stage(self, text: str) -> None:
        """Name what is being done."""
        self._progress.update(self._task, description=text)

    def started(self, step: int, steps: int) -> None:
        """Training starts, or goes on."""
        if step:
            self._console.print(f"resuming at step {step:,} of {steps:,}")
        self._progress.update(self._task, total=steps, completed=step, description="training")

    def stepped(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Show the newest probes."""
        self._values |= values
        self._progress.update(self._task, values=probe_text(self._values))
        if not self._console.is_terminal and any(map(parse_probe_name, values)):
            self._console.print(f"epoch {epoch:g}: {probe_text(self._values)}")

    def decided(self, text: str) -> None:
        """Print what was decided."""
        self._console.print(text, markup=False, highlight=False, style="dim")

    def warned(self, text: str) -> None:
        """Print the warning."""
        self._console.print(f"[yellow]warning:[/] {escape(text)}", highlight=False)


class SweepTable:
    """One row a run: finished runs stay as lines, running ones are a live table below (a View)."""

    def __init__(self, console: Console, total: int, done_before: int) -> None:
        self._console = console
        self._total = total
        self._done_before = done_before
        self._running: dict[str, Mapping[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self._values: dict[str, dict[str, float]] = {}
        self._finished: set[str] = set()
        self._started = self._spoke = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render, transient=True)

    def __enter__(self) -> SweepTable:
        if self._console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.__exit__(kind, error, trace)

    def running(self, label: str, result: Mapping[str, Any]) -> None:
        """Update the row of a run."""
        if result.get("warning"):
            self._console.print(f"[yellow]warning[/] {escape(label)}: {escape(result['warning'])}", highlight=False)
        self._running[label] = result
        self._values.setdefault(label, {}).update(result["values"])
        if not self._console.is_terminal and time.monotonic() - self._spoke > QUIET:
            self._say(self._summary(markup=False))

    def finished(self, label: str, error: str | None) -> None:
        """Turn the row of a run into a line."""
        self._running.pop(label, None)
        if label in self._finished:
            return
        self._finished.add(label)
        place = f"[{self._done_before + len(self._finished)}/{self._total}]"
        if error is None:
            text = probe_text(self._values.get(label, {}))
            self._say(f"{place} {label}  {text}")
        else:
            self.failed[label] = error
            self._say(f"{place} {label}  FAILED: {error}")

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, result in self._running.items():
            percent = 100 * result["step"] / max(1, result["steps"])
            table.add_row(escape(label), f"{percent:3.0f} %", str(result["stage"]), probe_text(self._values[label]))
        return Group(table, self._summary(markup=True))

    def _summary(self, markup: bool) -> str:
        count = len(self._finished)
        left = self._total - self._done_before - count
        seconds = time.monotonic() - self._started
        rate = f", about {_duration(seconds / count * left)} left" if count else ""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        failed = f"[red]{failed}[/]" if markup and failed else failed
        running = "" if markup else f", {len(self._running)} running"
        return f"{self._done_before + count} of {self._total} runs{failed}{running}, {_duration(seconds)} so far{rate}"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
        self._spoke = time.monotonic()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


class _Rate(ProgressColumn):
    """What is done a second, lately."""

    def render(self, task: Task) -> Text:
        """Empty until there is a rate."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left for work that reports (done, total); silent in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
