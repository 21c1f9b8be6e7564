"""The report of a sweep as it stands: tables and figures in its folder of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rt_scale.report import figures, tables
from rt_scale.report.tables import Row, Which
from rt_scale.spec.sweep import Point
from rt_scale.store.atomic import write_bytes
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store


@dataclass(frozen=True)
class SweepReport:
    """What was written.

    Attributes:
        tables: rows by probe (``linear``, ``knn@cifar100``, ...), for the probes that the runs have.
        which: the student's epoch that they are about.
        files: tables (Markdown, JSON) and figures.
    """

    tables: dict[str, list[Row]]
    which: Which
    files: list[Path]


def write_report(
    name: str, finished: Sequence[tuple[Point, Mapping[str, Any]]], total: int, store: Store, which: Which
) -> SweepReport:
    """Tables and figures of the finished runs of sweep ``name``.

    Args:
        name: the sweep.
        finished: its complete runs with their results.
        total: number of its runs, finished or not.
        store: where they are kept; the report goes beside.
        which: ``last`` or ``best`` epoch of the student.
    """
    folder = store.sweep(name).report
    keys = tables.probe_keys(finished)
    found = {probe: tables.rows(finished, probe, which) for probe in keys}
    found = {probe: rows for probe, rows in found.items() if rows}
    files = []
    if found:
        data = sorted({result["data"]["title"] for _, result in finished})
        head = f"# {name}\n\nData: {', '.join(data)}. {len(finished)} of {total} runs finished.\n\n"
        text = head + "\n".join(tables.to_markdown(rows, which) for rows in found.values())
        files.append(_write(folder / "tables.md", text))
        plain = {probe: [row.to_json() for row in rows] for probe, rows in found.items()}
        files.append(_write(folder / "tables.json", json.dumps({"which": which, "tables": plain}, indent=1)))
    metrics = {point.spec.name: read_metrics(store.run(point.spec).metrics_path).to_pydict() for point, _ in finished}
    for probe in (key for key in keys if key.partition("@")[0] in ("linear", "knn")):
        curves = [figures.curve(point, metrics[point.spec.name], probe) for point, _ in finished]
        drawn = [item for item in curves if item is not None]
        if drawn:
            path = folder / f"curves-{probe}.png"
            figures.save(figures.draw(drawn, probe, name), path)
            files.append(path)
    return SweepReport(found, which, files)


def _write(path: Path, text: str) -> Path:
    write_bytes(path, text.encode())
    return path
