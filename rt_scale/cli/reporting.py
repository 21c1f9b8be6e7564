"""What commands print of finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rt_scale.cli.options import open_console
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.report.sweep_report import SweepReport
    from rt_scale.spec.sweep import Point, SweepSpec
    from rt_scale.store.store import Store


def print_report(spec: SweepSpec, points: Sequence[Point], store: Store, best: bool, as_json: bool) -> SweepReport:
    """Print and write tables and figures of the finished runs among ``points``.

    Args:
        spec: the sweep.
        points: its runs.
        store: where they are.
        best: whether the student's best epoch counts, not its last.
        as_json: whether JSON is printed in place of tables.

    Raises:
        InputError: where none is finished.
    """
    from rt_scale.launch.sweep import finished_runs
    from rt_scale.report.sweep_report import write_report
    from rt_scale.report.tables import to_rich

    finished = finished_runs(points, store)
    if not finished:
        raise InputError(
            f"None of the {len(points)} runs of sweep '{spec.name}' is finished in '{store.place}'. "
            "Run it with 'rt-scale sweep', or name the store with --store."
        )
    written = write_report(spec.name, finished, len(points), store, "best" if best else "last")
    store.sweep(spec.name).send(store.sweep(spec.name).report)
    if as_json:
        plain: dict[str, Any] = {probe: [row.to_json() for row in rows] for probe, rows in written.tables.items()}
        print(json.dumps(plain, indent=1))
        return written
    console = open_console()
    for probe, rows in written.tables.items():
        if probe.partition("@")[0] in ("linear", "knn"):
            console.print(to_rich(rows, written.which))
    console.print(f"{len(finished)} of {len(points)} runs finished. Written:", highlight=False)
    for path in written.files:
        console.print(f"  {path}", highlight=False)
    console.print(f"TensorBoard: {store.sweep(spec.name).board}", highlight=False)
    return written
