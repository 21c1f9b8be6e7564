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
    from rt_scale.spec.grid import Point
    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.store import Store, SweepDir

    Loaded = tuple[SweepSpec, Sequence[Point]]

PAUSE = 20.0
"""How many times as long as it takes to make the reports passes before they are made again."""


class ReportFigures:
    """Keeps the reports of sweeps, and so their figures, up with their finished runs.

    Args:
        sweeps: with their runs.
        store: where they are.
        say: told why a report cannot be made.
        here: the data that that of the runs is compared with.
    """

    def __init__(self, sweeps: Sequence[Loaded], store: Store, say: Callable[[str], None], here: DataHere) -> None:
        self._sweeps, self._store, self._say, self._here = sweeps, store, say, here
        self._made: dict[str, tuple[int, int]] = {}
        self._maker: threading.Thread | None = None
        self._next = 0.0

    def __call__(self) -> None:
        """Begin to make the reports that are not there, or lack runs that are finished; at once there is none."""
        if (self._maker is not None and self._maker.is_alive()) or time.monotonic() < self._next:
            return
        if wanted := [sweep for sweep in self._sweeps if self._lacks_runs(*sweep)]:
            self._maker = threading.Thread(target=self._make, args=(wanted,), daemon=True)
            self._maker.start()

    def wait(self) -> None:
        """Until what was begun is made."""
        if self._maker is not None:
            self._maker.join()

    def _lacks_runs(self, spec: SweepSpec, points: Sequence[Point]) -> bool:
        """Whether the sweep's report is to be made; told once, until other runs are finished."""
        from rt_scale.scheduler.search import known_points

        paths = [self._store.run(point.spec).path / RESULT for point in known_points(spec, points, self._store)]
        dates = [stat.st_mtime_ns for path in paths if (stat := stat_file(path))]
        state = (len(dates), max(dates, default=0))
        made, self._made[spec.name] = self._made.get(spec.name), state
        if not dates or made is not None:
            return bool(dates) and made != state
        there = stat_file(self._store.sweep(spec.name).report / "report.md")
        return there is None or there.st_mtime_ns < state[1]

    def _make(self, sweeps: Sequence[Loaded]) -> None:
        from rt_scale.cli.reporting import make_report

        start = time.monotonic()
        for spec, points in sweeps:
            try:
                make_report(spec, points, self._store, _best(self._store.sweep(spec.name)), self._here)
            except RtScaleError as error:  # The curves are shown all the same.
                self._say(f"No new figures of '{spec.name}': {error}")
        self._next = time.monotonic() + PAUSE * (time.monotonic() - start)


def _best(sweep: SweepDir) -> bool:
    """Whether the report that is there shows the student's best epoch, as one in its place is to."""
    try:
        return bool(json.loads((sweep.report / "tables.json").read_bytes())["which"] == "best")
    except (OSError, ValueError, KeyError):
        return False
