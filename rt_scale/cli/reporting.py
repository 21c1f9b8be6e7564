"""What commands print of finished runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rt_scale.cli.options import open_console, send, warn
from rt_scale.spec.errors import InputError, counted
from rt_scale.system.console import say

if TYPE_CHECKING:
    from rt_scale.experiments.other_data import DataHere
    from rt_scale.report.sweep_report import SweepReport
    from rt_scale.spec.grid import Point
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns


def print_reports(sweeps: Sequence[SweepRuns], best: bool, as_json: bool, data_dir: Path) -> list[SweepReport]:
    """Print and write a report of every sweep, and one of those that repeat the same experiment of the paper.

    Args:
        sweeps: of one store, in their order.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables, report after report.
        data_dir: of prepared data, which that of the runs is compared with.

    Returns:
        What was written, report after report.

    Raises:
        InputError: where sweeps of one experiment have different data, or none of a report's runs is finished.
    """
    reports: dict[str, list[SweepRuns]] = {}
    for number, sweep in enumerate(sweeps):
        reports.setdefault(sweep.spec.experiment or f"#{number}", []).append(sweep)
    return [print_report(sweep, best, as_json, data_dir, others) for sweep, *others in reports.values()]


def print_report(
    sweep: SweepRuns, best: bool, as_json: bool, data_dir: Path, others: Sequence[SweepRuns] = ()
) -> SweepReport:
    """Print and write tables and figures of the sweep's finished runs.

    Args:
        sweep: the sweep.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables.
        data_dir: of prepared data, which that of the runs is compared with.
        others: sweeps that are reported with it.

    Raises:
        InputError: where none is finished, or they were on different data.
    """
    from rt_scale.experiments.other_data import DataHere

    written, finished, total = make_report(sweep, best, DataHere(data_dir), others)
    warn(written.contents.other_data)
    board = sweep.folder.board
    _show(written, finished, total, board if sweep.store.derived is None or board.is_dir() else None, as_json)
    return written


def make_report(
    sweep: SweepRuns, best: bool, here: DataHere, others: Sequence[SweepRuns] = ()
) -> tuple[SweepReport, int, int]:
    """Write what :func:`print_report` prints, which see; ``here`` is the data that that of the runs is compared with.

    Returns:
        What was written, the number of finished runs, and that of all.
    """
    from rt_scale.experiments.other_data import compare_sweeps
    from rt_scale.ray_backend.sweep import finished_runs
    from rt_scale.report.merging import check_same_data, merged_points
    from rt_scale.report.sweep_report import write_report
    from rt_scale.store.sweep_runs import refuse_equal_names

    together, store = [sweep, *others], sweep.store
    refuse_equal_names(together, "reported together")
    points = merged_points([each.points for each in together])
    finished = finished_runs(points, store)
    total = len(points) + sum(each.to_sample for each in together)
    check_same_data({each.name: _of(each.points, finished) for each in together})
    if not finished:
        raise InputError(
            f"None of the {total} runs of sweep '{sweep.name}' is finished in '{store.place}'. "
            "Run it with 'rt-scale sweep', or name the store with --store."
        )
    written = write_report(
        sweep.name, finished, total, store, "best" if best else "last",
        experiment=sweep.spec.experiment,
        standing=_standing(points, together, store),
        others=[each.name for each in others],
        other_data=compare_sweeps(together, here)[1],
    )  # fmt: skip
    send(sweep.folder, sweep.folder.report)
    return written, len(finished), total


def _of(members: Sequence[Point], finished: Sequence[tuple[Point, Any]]) -> tuple[Sequence[Point], list[Any]]:
    """The runs of one sweep, and the results of those that are finished."""
    names = {point.spec.name for point in members}
    return members, [result for point, result in finished if point.spec.name in names]


def _standing(points: Sequence[Point], sweeps: Sequence[SweepRuns], store: Store) -> Any:
    from rt_scale.report.status import status_of_sweep

    ended = {name: stop for sweep in sweeps for name, stop in sweep.early_stopped.items()}
    return list(zip(points, status_of_sweep(points, store, ended), strict=True))


def _show(written: SweepReport, finished: int, total: int, board: Path | None, as_json: bool) -> None:
    from rich.text import Text

    from rt_scale.report.tables import to_rich

    if as_json:
        plain: dict[str, Any] = {probe: [row.to_json() for row in rows] for probe, rows in written.tables.items()}
        print(json.dumps(plain, indent=1))
        return
    console = open_console()
    console.print(f"Data: {'; '.join(written.contents.data)}")
    for probe, rows in written.tables.items():
        if probe.partition("@")[0] in ("linear", "knn"):
            console.print(to_rich(rows, written.which))
    for judged in written.contents.verdicts:
        style = {"holds": "green", "fails": "red", "undecided": "yellow"}[judged.verdict.word]
        told = f" {judged.claim} ({judged.where}) {judged.verdict.why}"
        console.print(Text.assemble((judged.verdict.word, style), told))
    console.print(f"{finished} of {total} runs finished. Written:")
    for path in written.files:
        console.print(f"  {path}")
    if board is not None:
        console.print(f"TensorBoard: {board}")


def keep_summary(written: Sequence[SweepReport], store: Store, command: Sequence[str], folder: Path) -> None:
    """Keep what reports say in ``folder`` (``report.summary.write_summary``), and say so on the standard error."""
    from rt_scale.report.summary import write_summary

    files = write_summary(written, store, shlex.join(command), folder)
    size = sum(path.stat().st_size for path in files)
    say(f"Summary: {files[0]} ({counted(len(files), 'file')}, {size / 1e6:.2f} MB)", error=True)
