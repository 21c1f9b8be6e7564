"""A view of a sweep whose time and terminal tests hold in their hands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from rt_scale.progress.terminal import QUIET, SweepView
from rt_scale.scheduler.job import RunReport

VALUES = {"probe/student/linear": 0.4567, "probe/teacher/linear": 0.25, "probe/student/knn": 0.9}
PROBES = "linear 45.7 (teacher 25.0), knn 90.0"
ERASE = "\x1b[2K"


class Watched:
    """A view, the clock that it goes by, and what it wrote."""

    def __init__(
        self, terminal: bool, total: int = 5, done_before: int = 0, log: Path | None = None, height: int = 20
    ) -> None:
        self.now = 1000.0
        self.console = Console(
            file=io.StringIO(),
            force_terminal=terminal,
            width=160,
            height=height,
            color_system="truecolor" if terminal else "auto",
        )
        self.view = SweepView(self.console, total, done_before, log, clock=lambda: self.now)

    @property
    def written(self) -> str:
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.written.splitlines()

    def shown(self) -> list[str]:
        """What stands in the terminal's lower part, without colours."""
        plain = Console(file=io.StringIO(), width=160, height=self.console.height)
        plain.print(self.view.progress)
        assert isinstance(plain.file, io.StringIO)
        return [line.rstrip() for line in plain.file.getvalue().splitlines() if line.strip()]

    def summary(self) -> str:
        """What a pipe is told after a while."""
        self.now += QUIET
        before = len(self.lines)
        self.view.tick()
        (line,) = self.lines[before:]
        return line


def report(step: int, where: str = "cpu", stage: str = "training", **more: Any) -> RunReport:
    return RunReport(step=step, steps=10, stage=stage, where=where, **more)
