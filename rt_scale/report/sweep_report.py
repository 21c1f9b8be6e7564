"""The report of a sweep as it stands: a page, tables and figures in its folder of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rt_scale.report import tables
from rt_scale.report.assemble import Sources, assemble
from rt_scale.report.contents import Contents
from rt_scale.report.page import to_html
from rt_scale.report.page_markdown import to_markdown
from rt_scale.report.page_tables import numbers_table, verdicts_table
from rt_scale.report.paper_numbers import data_title
from rt_scale.report.status import StatusRow, status_of_sweep
from rt_scale.report.table_files import table_file
from rt_scale.report.tables import Row, Which
from rt_scale.spec.grid import Point
from rt_scale.store.atomic import write_bytes
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store


@dataclass(frozen=True)
class SweepReport:
    """What was written.

    Attributes:
        tables: rows by probe (``linear``, ``knn@cifar100``, ...), for the probes that the runs have.
        which: the student's epoch that they are about.
        files: tables (Markdown, JSON) and figures, then the page and its numbers.
        contents: of the page.
        results: of the finished runs.
    """

    tables: dict[str, list[Row]]
    which: Which
    files: list[Path]
    contents: Contents
    results: Sequence[RunResult]


def write_report(
    name: str,
    finished: Sequence[tuple[Point, RunResult]],
    total: int,
    store: Store,
    which: Which,
    *,
    experiment: str | None = None,
    standing: Sequence[tuple[Point, StatusRow]] | None = None,
    others: Sequence[str] = (),
    other_data: str = "",
) -> SweepReport:
    """Page, tables and figures of the finished runs of sweep ``name``.

    Args:
        name: the sweep.
        finished: its complete runs with their results.
        total: number of its runs, finished or not.
        store: where they are kept; the report goes beside.
        which: ``last`` or ``best`` epoch of the student.
        experiment: the paper's experiment that it repeats, if any.
        standing: all its runs in their order, and how they stand; None: those finished are all there is to say.
        others: names of sweeps whose runs are among these; the report then has a folder of its own.
        other_data: which runs are on other images than are here, in sentences; else empty.
    """
    folder = store.sweep(name).report
    if others:
        folder = folder / "-".join(["with", *others])
    keys = tables.probe_keys(point for point, _ in finished)
    found = {probe: tables.rows(finished, probe, which) for probe in keys}
    found = {probe: rows for probe, rows in found.items() if rows}
    files = _write_tables(folder, name, found, finished, total, which, other_data) if found else []
    if standing is None:
        points = [point for point, _ in finished]
        standing = list(zip(points, status_of_sweep(points, store), strict=True))
    sources = Sources((name, *others), experiment, finished, standing, store, which, folder, other_data)
    contents = assemble(sources)
    files += [picture.png for picture in contents.pictures] + [picture.svg for picture in contents.pictures]
    return SweepReport(found, which, files + _write_page(contents), contents, [result for _, result in finished])


def _write_tables(
    folder: Path,
    name: str,
    found: Mapping[str, list[Row]],
    finished: Sequence[tuple[Point, RunResult]],
    total: int,
    which: Which,
    other_data: str,
) -> list[Path]:
    data = sorted({data_title(result.data.name, result.data.title) for _, result in finished})
    head = f"# {name}\n\nData: {', '.join(data)}. {len(finished)} of {total} runs finished.\n\n"
    head += f"**{other_data}**\n\n" if other_data else ""
    text = head + "\n".join(tables.to_markdown(rows, which) for rows in found.values())
    plain = {probe: [row.to_json() for row in rows] for probe, rows in found.items()}
    return [
        _write(folder / "tables.md", text),
        _write(folder / "tables.json", json.dumps({"data": data, "which": which, "tables": plain}, indent=1)),
    ]


def _write_page(contents: Contents) -> list[Path]:
    folder = contents.folder
    files = [
        _write(folder / "report.html", to_html(contents)),
        _write(folder / "report.md", to_markdown(contents)),
    ]
    numbers = {"report": numbers_table(contents)}
    if contents.verdicts:
        numbers["verdicts"] = verdicts_table(contents)
    for name, table in numbers.items():
        files += _write_numbers(folder / name, table)
    return files


def _write_numbers(path: Path, table: pa.Table) -> list[Path]:
    """The table as CSV and as Parquet."""
    with table_file(csv := path.with_suffix(".csv"), table.schema, "csv") as file:
        file.add(table)
    with table_file(parquet := path.with_suffix(".parquet"), table.schema, "parquet") as file:
        file.add(table)
    return [csv, parquet]


def _write(path: Path, text: str) -> Path:
    write_bytes(path, text.encode())
    return path
