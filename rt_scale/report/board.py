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
from rt_scale.scheduler.comparison import Loaded, refresh_board
from rt_scale.scheduler.search import known_points
from rt_scale.spec.errors import InputError, RtScaleError, StoreAway
from rt_scale.spec.sweep import Point, SweepSpec
from rt_scale.store.run_dir import RESULT
from rt_scale.store.store import Store, SweepDir
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
    sweeps: Sequence[Loaded],
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
        sweeps: sweeps with their runs; none shows the store's run directories.
        store: where runs are kept.
        host: address to listen on.
        port: port; 0 takes a free one, None 6006 or the next free one.
        say: receives the lines that name the address, and what is there to be seen.
        every_run: whether runs are shown by themselves, and not only the means of configurations.
        figures: brings the reports' figures up to date; called again and again while the board is open.
        interval: seconds between two looks at what was computed meanwhile.

    Raises:
        InputError: where there is nothing to show, two sweeps have one name, or the port is taken.
    """
    names = [sweep.name for sweep, _ in sweeps]
    if len({*names}) < len(names):
        raise InputError(f"Sweeps that are shown together need names of their own; given: {', '.join(names)}.")
    store.refresh()
    folder = refresh_board(sweeps, store, every_run=every_run) if sweeps else _runs(store)

    def refresh() -> None:
        with contextlib.suppress(StoreAway):  # it comes back
            store.refresh(younger=LOOK)
        if figures is not None:
            figures()
        if sweeps:
            refresh_board(sweeps, store, every_run=every_run)

    def ready(address: str) -> None:
        say(f"TensorBoard: {address} (Ctrl-C ends it)")
        if sweeps:
            for line in _hints(address, folder, every_run):
                say(line)

    title = ", ".join(names) or store.root.name
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
    """The folder of all runs."""
    folder = store.root / "runs"
    if not folder.is_dir():
        raise InputError(f"There are no runs in '{store.place}'. Run a sweep first, or name the store with --store.")
    return folder


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
        paths = [self._store.run(point.spec).path / RESULT for point in known_points(spec, points, self._store)]
        dates = [stat.st_mtime_ns for path in paths if (stat := stat_file(path))]
        state = (len(dates), max(dates, default=0))
        made, self._made[spec.name] = self._made.get(spec.name), state
        if not dates or made is not None:
            return bool(dates) and made != state
        there = stat_file(self._store.sweep(spec.name).report / "report.md")
        return there is None or there.st_mtime_ns < state[1]

    def _make(self, sweeps: Sequence[Loaded]) -> None:
        start = time.monotonic()
        for spec, points in sweeps:
            try:
                make_report([(spec, points)], self._store, _which(self._store.sweep(spec.name)), self._here)
            except RtScaleError as error:  # The curves are shown all the same.
                self._say(f"No new figures of '{spec.name}': {error}")
        self._next = time.monotonic() + PAUSE * (time.monotonic() - start)


def _which(sweep: SweepDir) -> Which:
    """The student's epoch in the report that is there, which one in its place is to show too."""
    try:
        return "best" if json.loads((sweep.report / "tables.json").read_bytes())["which"] == "best" else "last"
    except (OSError, ValueError, KeyError):
        return "last"
