"""TensorBoard on the comparison view of sweeps, with the figures of their reports, or on every run of a store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from rt_scale.experiments.other_data import DataHere
from rt_scale.report.report import make_report
from rt_scale.report.results import Which
from rt_scale.scheduler.comparison import refresh_board
from rt_scale.spec.errors import InputError, RtScaleError, StoreAway
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store, SweepDir
from rt_scale.store.sweep_runs import SweepRuns, refuse_equal_names
from rt_scale.tensorboard.server import serve
from rt_scale.tensorboard.sweep_view import MEANS, SWEEP
from rt_scale.tensorboard.writer import stat_file

MOST_TICKED = 40
"""Runs that TensorBoard ticks at first, outside Time Series; of more it ticks none."""
LOOK = 30.0
"""Seconds between two looks at an object store; each asks for the names of all that is in it."""
PAUSE = 20.0
"""How many times as long as it takes to make the reports passes before they are made again."""


def open_board(
    sweeps: Sequence[SweepRuns],
    store: Store,
    *,
    host: str,
    port: int | None,
    say: Callable[[str], None],
    every_run: bool = False,
    figures: Callable[[], None] | None = None,
    interval: float = 5.0,
) -> None:
    """Serve until interrupted; runs that begin meanwhile appear.

    Args:
        sweeps: of that store; none shows the store's run directories.
        port: 0 takes a free one, None 6006 or the next free one.
        say: receives the lines that name the address, and what is there to be seen.
        every_run: whether runs are shown by themselves, and not only the means of configurations.
        figures: brings the reports' figures up to date; called every ``interval`` seconds.

    Raises:
        InputError: where there is nothing to show, two sweeps have one name, or the port is taken.
    """
    refuse_equal_names(sweeps, "shown together")
    store.refresh()
    folder = refresh_board(sweeps, every_run=every_run) if sweeps else _runs(store)

    def refresh() -> None:
        with contextlib.suppress(StoreAway):  # it comes back
            store.refresh(younger=LOOK)
        if figures is not None:
            figures()
        if sweeps:
            refresh_board(sweeps, every_run=every_run)

    def ready(address: str) -> None:
        for line in [
            f"TensorBoard: {address} (Ctrl-C ends it)",
            *(_hints(address, folder, every_run) if sweeps else []),
        ]:
            say(line)

    title = ", ".join(sweep.name for sweep in sweeps) or store.root.name
    serve(folder, ready, title=title, port=port, host=host, refresh=refresh, interval=interval)


def _hints(address: str, folder: Path, every_run: bool) -> list[str]:
    """What is to be seen where, in lines."""
    prefix = f"{MEANS}/" if every_run else ""
    means = sorted({*os.listdir(folder / prefix)} - {SWEEP})
    shown = "Every run, and the means over seeds." if every_run else "The means over seeds; --runs shows every run."
    lines = [f"  {shown}", f"  Figures of the report: {address}#images&regexInput={quote(f'^{SWEEP}$')}"]
    if len(os.listdir(folder)) > MOST_TICKED:
        pattern = quote("^" + re.escape(prefix + few(means, MOST_TICKED)))
        lines.append(f"  Intervals of some (Custom Scalars draws no run of more than {MOST_TICKED} unless it is ticked "
                     f"or matches a filter): {address}#custom_scalars&regexInput={pattern}")  # fmt: skip
    return lines


def few(names: Sequence[str], most: int) -> str:
    """The shortest beginning of the first name, up to a comma, that at most so many names have; the name if none is."""
    parts = names[0].split(",")
    beginnings = [",".join(parts[:count]) + "," for count in range(1, len(parts))]
    found = (start for start in beginnings if sum(name.startswith(start) for name in names) <= most)
    return next(found, names[0])


def _runs(store: Store) -> Path:
    folder = store.root / "runs"
    if not folder.is_dir():
        raise InputError(f"There are no runs in '{store.place}'. Run a sweep first, or name the store with --store.")
    return folder


class ReportFigures:
    """Keeps the reports of sweeps, and so their figures, up with their finished runs.

    ``say`` is told why a report cannot be made; the data of the runs is compared with that which is ``here``.
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
        start = time.monotonic()
        for sweep in sweeps:
            try:
                make_report([sweep], _which(sweep.folder), self._here)
            except RtScaleError as error:  # The curves are shown all the same.
                self._say(f"No new figures of '{sweep.name}': {error}")
        self._next = time.monotonic() + PAUSE * (time.monotonic() - start)


def _which(sweep: SweepDir) -> Which:
    """The student's epoch in the report that is there, which one in its place is to show too."""
    try:
        return "best" if json.loads((sweep.report / "tables.json").read_bytes())["which"] == "best" else "last"
    except (OSError, ValueError, KeyError):
        return "last"
