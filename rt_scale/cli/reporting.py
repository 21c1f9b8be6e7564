"""What commands print of finished runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rt_scale.cli.options import open_console, send, warn
from rt_scale.spec.errors import counted
from rt_scale.system.console import say

if TYPE_CHECKING:
    from rt_scale.report.page import Report
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns


def print_reports(sweeps: Sequence[SweepRuns], best: bool, as_json: bool, data_dir: Path) -> list[Report]:
    """Print and write a report of every sweep, and one of those that repeat the same experiment of the paper.

    Args:
        sweeps: of one store, in their order.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables, report after report.
        data_dir: of prepared data, which that of the runs is compared with.

    Raises:
        InputError: where sweeps of one experiment have different data, or none of a report's runs is finished.
    """
    from rt_scale.experiments.other_data import DataHere
    from rt_scale.report.report import make_report

    together: dict[str, list[SweepRuns]] = {}
    for number, sweep in enumerate(sweeps):
        together.setdefault(sweep.spec.experiment or f"#{number}", []).append(sweep)
    reports = []
    for members in together.values():
        report = make_report(members, "best" if best else "last", DataHere(data_dir))
        folder = members[0].folder
        send(folder, folder.report)
        warn(report.other_data)
        if as_json:
            print(json.dumps(report.to_json(), indent=1))
        else:
            _show(report, folder.board if members[0].store.derived is None or folder.board.is_dir() else None)
        reports.append(report)
    return reports


def _show(report: Report, board: Path | None) -> None:
    from rich.text import Text

    from rt_scale.report.page import to_rich

    console = open_console()
    console.print(f"Data: {'; '.join(report.data)}")
    for probe, rows in report.measured.items():
        if probe.partition("@")[0] in ("linear", "knn"):
            console.print(to_rich(rows, report.which))
    for judged in report.verdicts:
        style = {"holds": "green", "fails": "red", "undecided": "yellow"}[judged.verdict.word]
        told = f" {judged.claim} ({judged.where}) {judged.verdict.why}"
        console.print(Text.assemble((judged.verdict.word, style), told))
    console.print(f"{report.finished} runs finished. Written:")
    for path in report.files:
        console.print(f"  {path}")
    if board is not None:
        console.print(f"TensorBoard: {board}")


def keep_summary(written: Sequence[Report], store: Store, command: Sequence[str], folder: Path) -> None:
    """Keep what reports say in ``folder`` (``report.summary.write_summary``), and say so on the standard error."""
    from rt_scale.report.summary import write_summary

    files = write_summary(written, store, shlex.join(command), folder)
    size = sum(path.stat().st_size for path in files)
    say(f"Summary: {files[0]} ({counted(len(files), 'file')}, {size / 1e6:.2f} MB)", error=True)
