"""Progress bars of one run or task in a terminal or notebook; plain lines, or nothing, in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

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
from rich.table import Column
from rich.text import Text

from rt_scale.scheduler.job import RunReport
from rt_scale.spec.metrics import parse_probe_name
from rt_scale.system.console import PlainConsole

SHOWN = ("linear", "knn")
"""Probes in progress bars and lines."""
CLASSIFIER = "test accuracy"
"""Label of a supervised classifier's own accuracy."""


class Score(NamedTuple):
    """An accuracy in [0, 1] of kind ``linear``, ``knn`` or ``test accuracy``, and its text in percent."""

    kind: str
    value: float
    text: str


def scores(values: Mapping[str, float]) -> list[Score]:
    """The known accuracies of a run to show, a classifier's own first.

    They are on the data set that is distilled on or, if that is not probed, on the others.
    """
    own = values.get("test/accuracy")
    shown = [] if own is None else [Score(CLASSIFIER, own, f"{CLASSIFIER} {100 * own:.1f}")]
    found = [name for name in map(parse_probe_name, values) if name and name.role == "student" and name.probe in SHOWN]
    main = [name for name in found if name.data is None]
    for name in sorted(main or found, key=lambda each: (each.data or "", SHOWN.index(each.probe))):
        value, teacher = values[str(name)], values.get(str(name._replace(role="teacher")))
        against = "" if teacher is None else f" (teacher {100 * teacher:.1f})"
        where = "" if name.data is None else f" on {name.data}"
        shown.append(Score(name.probe, value, f"{name.probe}{where} {100 * value:.1f}{against}"))
    return shown


def probe_text(values: Mapping[str, float]) -> str:
    """The accuracies of :func:`scores` in one line, in percent."""
    return ", ".join(score.text for score in scores(values))


def _is_live(console: PlainConsole) -> bool:
    return console.is_terminal or console.is_jupyter


class RunBar(Progress):
    """The progress bar of one run (an Observer); in a pipe, one line per probing."""

    def __init__(self, console: PlainConsole) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("steps", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}", markup=False),
            console=console,
            disable=not _is_live(console),
        )
        self._bar: TaskID = self.add_task("starting", total=None, values="")
        self._values: dict[str, float] = {}
        self._began: int | None = None

    def stop(self) -> None:
        """Draw the last state, as rich does everywhere but in a notebook, and stop."""
        self.refresh()
        super().stop()

    def stage(self, text: str) -> None:
        """Show the current stage."""
        self.update(self._bar, description=text)

    def started(self, step: int, steps: int) -> None:
        """Training starts or resumes."""
        if step:
            self.console.print(f"resuming at step {step:,} of {steps:,}")
        self.update(self._bar, total=steps, completed=step, description="training")

    def stepped(self, step: int) -> None:
        """Move the bar."""
        self.update(self._bar, completed=step)

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Show the newest probes."""
        self._values |= values
        self.update(self._bar, values=probe_text(self._values))
        if not self.console.is_terminal and scores(values):
            self.console.print(f"epoch {epoch:g}: {probe_text(self._values)}")

    def reported(self, report: RunReport) -> None:
        """Show the report of a run in another process."""
        for warning in report.warnings:
            self.warned(warning)
        if report.began is not None and report.began != self._began:
            self._began = report.began
            self.started(report.began, report.steps)
        self.stage(report.stage)
        self.stepped(report.step)
        news = {name: value for name, value in report.values.items() if self._values.get(name) != value}
        if news:
            self.logged(report.step, report.epoch, news)

    def decided(self, text: str) -> None:
        """Print a decision of the run."""
        self.console.print(text, style="dim")

    def warned(self, text: str) -> None:
        """Print the warning."""
        self.console.print(Text.assemble(("warning:", "yellow"), f" {text}"))


class Words(ProgressColumn):
    """A column with the text that ``text`` makes of a task; ``column`` as for rich's Column."""

    def __init__(self, text: Callable[[Task], str], **column: Any) -> None:
        super().__init__(Column(no_wrap=True, **column))
        self._text = text

    def render(self, task: Task) -> Text:
        """The text of one cell."""
        return Text(self._text(task))


def _rate(task: Task) -> str:
    speed = task.finished_speed or task.speed
    return "" if speed is None else f"{speed:,.0f}/s"


@contextmanager
def counting(console: PlainConsole, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left for work that reports (done, total); silent in a pipe."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Words(_rate, style="progress.data.speed"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not (console.is_terminal or console.is_jupyter), transient=True
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
