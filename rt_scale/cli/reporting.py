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
    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.results import RunResult
    from rt_scale.store.store import Store

Loaded = tuple["SweepSpec", Sequence["Point"]]
"""A sweep with its runs."""


def print_reports(
    sweeps: Sequence[Loaded], store: Store, best: bool, as_json: bool, data_dir: Path
) -> list[SweepReport]:
    """Print and write a report of every sweep, and one of those that repeat the same experiment of the paper.

    Args:
        sweeps: in their order.
        store: where their runs are.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables, report after report.
        data_dir: of prepared data, which that of the runs is compared with.

    Returns:
        What was written, report after report.

    Raises:
        InputError: where sweeps of one experiment have different data, or none of a report's runs is finished.
    """
    reports: dict[str, list[Loaded]] = {}
    for number, (spec, points) in enumerate(sweeps):
        reports.setdefault(spec.experiment or f"#{number}", []).append((spec, points))
    return [
        print_report(spec, points, store, best, as_json, data_dir, others)
        for (spec, points), *others in reports.values()
    ]


def print_report(
    spec: SweepSpec,
    points: Sequence[Point],
    store: Store,
    best: bool,
    as_json: bool,
    data_dir: Path,
    others: Sequence[Loaded] = (),
) -> SweepReport:
    """Print and write tables and figures of the finished runs among ``points``.

    Args:
        spec: the sweep.
        points: its runs.
        store: where they are.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables.
        data_dir: of prepared data, which that of the runs is compared with.
        others: sweeps that are reported with it.

    Raises:
        InputError: where none is finished, or they were on different data.
    """
    from rt_scale.experiments.other_data import DataHere

    written, finished, total = make_report(spec, points, store, best, DataHere(data_dir), others)
    warn(written.contents.other_data)
    board = store.sweep(spec.name).board
    _show(written, finished, total, board if store.derived is None or board.is_dir() else None, as_json)
    return written


def make_report(
    spec: SweepSpec, points: Sequence[Point], store: Store, best: bool, here: DataHere, others: Sequence[Loaded] = ()
) -> tuple[SweepReport, int, int]:
    """Write what :func:`print_report` prints, which see; ``here`` is the data that that of the runs is compared with.

    Returns:
        What was written, the number of finished runs, and that of all.
    """
    from rt_scale.experiments.other_data import compare_sweeps
    from rt_scale.ray_backend.sweep import finished_runs
    from rt_scale.report.merging import check_same_data, merged_points
    from rt_scale.report.sweep_report import write_report
    from rt_scale.scheduler.search import to_be_sampled

    together = _known([(spec, points), *others], store)
    points = merged_points([members for _, members in together])
    finished = finished_runs(points, store)
    total = len(points) + sum(to_be_sampled(each, store) for each, _ in together)
    check_same_data({each.name: _of(members, finished) for each, members in together})
    if not finished:
        raise InputError(
            f"None of the {total} runs of sweep '{spec.name}' is finished in '{store.place}'. "
            "Run it with 'rt-scale sweep', or name the store with --store."
        )
    written = write_report(
        spec.name, finished, total, store, "best" if best else "last",
        experiment=spec.experiment,
        standing=_standing(points, [each for each, _ in together], store),
        others=[each.name for each, _ in others],
        other_data=compare_sweeps([(each.name, members) for each, members in together], store, here)[1],
    )  # fmt: skip
    send(store.sweep(spec.name), store.sweep(spec.name).report)
    return written, len(finished), total


def _of(
    members: Sequence[Point], finished: Sequence[tuple[Point, RunResult]]
) -> tuple[Sequence[Point], list[RunResult]]:
    """The runs of one sweep, and the results of those that are finished."""
    names = {point.spec.name for point in members}
    return members, [result for point, result in finished if point.spec.name in names]


def _known(sweeps: Sequence[Loaded], store: Store) -> list[Loaded]:
    """With the runs that searches sampled."""
    from rt_scale.scheduler.search import known_points

    if len({spec.name for spec, _ in sweeps}) < len(sweeps):
        names = ", ".join(spec.name for spec, _ in sweeps)
        raise InputError(f"Sweeps that are reported together need names of their own; given: {names}.")
    return [(spec, known_points(spec, points, store)) for spec, points in sweeps]


def _standing(points: Sequence[Point], specs: Sequence[SweepSpec], store: Store) -> Any:
    from rt_scale.report.status import status_of_sweep
    from rt_scale.scheduler.early_stopping import ended_early

    return list(zip(points, status_of_sweep(points, store, ended_early(specs, store)), strict=True))


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
