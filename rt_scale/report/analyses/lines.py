"""Lines of parameter space in a report: each measure along the lines of all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rt_scale.report.analyses.base import Analysed, Asked, Picture, listed
from rt_scale.report.analyses.planes import LINE, Array
from rt_scale.report.figures import Drawing, Line, draw, save
from rt_scale.report.paper_numbers import data_title
from rt_scale.spec.experiments.landscape import Measure


def line_pictures(asked: Asked, runs: Sequence[Analysed[Any]]) -> list[Picture]:
    """One figure, a panel a measure, of those of ``runs`` that are lines and have points; none without."""
    paths = [(run, asked.artifact(run.point, LINE)) for run in runs]
    found = [(run, read_line(path)) for run, path in paths if path is not None]
    seeds = len({run.seed for run, _ in found}) > 1
    panels = []
    for measure in get_args(Measure):
        of_loss = measure.endswith(("_train", "_test"))
        lines = [
            Line(f"{run.at['view']}{f', seed {run.seed}' if seeds else ''}", list(line["x"][known]),
                 list((1 if of_loss else 100) * line[measure][known]))
            for run, line in found
            if measure in line and (known := np.isfinite(line[measure])).any()
        ]  # fmt: skip
        if lines:
            label = f"{measure.replace('_', ' ')} ({'nats' if of_loss else '%'})"
            panels.append(Drawing("", "share of the way from origin to x", label, "linear", lines))
    if not panels:
        return []
    svg, png = (asked.folder / f"lines.{form}" for form in ("svg", "png"))
    title = f"Lines, {listed(data_title(run.at['data']) for run, _ in found)}"
    save(draw(panels, title, 2), svg, png)
    return [Picture("lines", f"{title}: values at points that are computed.", svg, png)]


def read_line(path: Path) -> Mapping[str, Array]:
    """The arrays of a file: ``x`` and the measures [W], and others."""
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name], np.float64) for name in file.files}
