"""Figures for the board: the reports of its sweeps, made where they are wanted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rt_scale.spec.errors import RtScaleError
from rt_scale.store.run_dir import RESULT
from rt_scale.tensorboard.writer import stat_file

if TYPE_CHECKING:
    from rt_scale.experiments.other_data import DataHere
    from rt_scale.store.store import SweepDir
    from rt_scale.store.sweep_runs import SweepRuns

PAUSE = 20.0
"""How many times as long as it takes to make the reports passes before they are made again."""


class ReportFigures:
    """Keeps the reports of sweeps, and so their figures, up with their finished runs.

    Args:
        sweeps: of one store.
        say: told why a report cannot be made.
        here: the data that that of the runs is compared with.
    """

    def __init__(self, sweeps: Sequence[SweepRuns], say: Callable[[str], None], here: DataHere) -> None:
        self._sweeps, self._say, self._here = sweeps, say, here
        self._made: dict[str, tuple[int, int]] = {}
        self._maker: threading.Thread | None = None
        self._next = 0.0

    def __call__(self) -> None:
        """Begin to make the reports that are not there, or lack runs that are finished; at once there is none."""
        if (self._maker is not None and self._maker.is_alive()) or time.monotonic() < self._next:
            return
        if wanted := [sweep for sweep in self._sweeps if self._lacks_runs(sweep)]:
            self._maker = threading.Thread(target=self._make, args=(wanted,), daemon=True)
            self._maker.start()

    def wait(self) -> None:
        """Until what was begun is made."""
        if self._maker is not None:
            self._maker.join()

    def _lacks_runs(self, sweep: SweepRuns) -> bool:
        """Whether the sweep's report is to be made; told once, until other runs are finished."""
        paths = [sweep.store.run(point.spec).path / RESULT for point in sweep.points]
        dates = [stat.st_mtime_ns for path in paths if (stat := stat_file(path))]
        state = (len(dates), max(dates, default=0))
        made, self._made[sweep.name] = self._made.get(sweep.name), state
        if not dates or made is not None:
            return bool(dates) and made != state
        there = stat_file(sweep.folder.report / "report.md")
        return there is None or there.st_mtime_ns < state[1]

    def _make(self, sweeps: Sequence[SweepRuns]) -> None:
        from rt_scale.cli.reporting import make_report

        start = time.monotonic()
        for sweep in sweeps:
            try:
                make_report(sweep, _best(sweep.folder), self._here)
            except RtScaleError as error:  # The curves are shown all the same.
                self._say(f"No new figures of '{sweep.name}': {error}")
        self._next = time.monotonic() + PAUSE * (time.monotonic() - start)


def _best(sweep: SweepDir) -> bool:
    """Whether the report that is there shows the student's best epoch, as one in its place is to."""
    try:
        return bool(json.loads((sweep.report / "tables.json").read_bytes())["which"] == "best")
    except (OSError, ValueError, KeyError):
        return False
