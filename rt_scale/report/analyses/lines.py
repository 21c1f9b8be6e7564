"""Lines of parameter space in a report: each measure along them, means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rt_scale.report.analyses.base import Analysed, Asked, Picture, listed
from rt_scale.report.analyses.landscapes import Landscape, of, title_of
from rt_scale.report.analyses.maps import measure
from rt_scale.report.figures.drawing import draw, save
from rt_scale.report.figures.panels import Drawing, Line, mean_line
from rt_scale.report.paper_numbers import data_title
from rt_scale.spec.grid import grouped


def line_pictures(asked: Asked, runs: Sequence[Analysed[Landscape]]) -> list[Picture]:
    """One figure, a panel a measure, of runs that are lines; none without any."""
    names = dict.fromkeys(name for run in runs for name in of(run).plane.values if not name.startswith("norm"))
    panels = [_panel(name, runs) for name in names]
    if not panels:
        return []
    title = f"Lines, {listed(data_title(run.at['data']) for run in runs)}"
    svg, png = (asked.folder / f"lines.{form}" for form in ("svg", "png"))
    save(draw(panels, title, 2), svg, png)
    return [Picture("lines", f"{title}: means over seeds with their 95 % intervals.", svg, png)]


def _panel(name: str, runs: Sequence[Analysed[Landscape]]) -> Drawing:
    """A measure along the lines of each configuration."""
    about, groups = measure(name), grouped(runs, title_of)
    lines = [line for title, members in groups.items() if (line := _line(title, name, members)) is not None]
    label = f"log10 {about.title}" if about.log else f"{about.title} (%)" if about.percent else about.title
    return Drawing("", "share of the way from origin to x", label, "linear", lines)


def _line(title: str, name: str, runs: Sequence[Analysed[Landscape]]) -> Line | None:
    """The mean over seeds at the points that all of them have; None if they do not have the measure."""
    about, planes = measure(name), [plane for run in runs if name in (plane := of(run).plane).values]
    if not planes:
        return None
    values = np.stack([each.values[name][0] for each in planes])
    known = np.isfinite(values).all(axis=0)
    heights = np.log10(np.maximum(values, about.low)) if about.log else values
    factor = 100 if about.percent else 1
    return mean_line(title, planes[0].x[known].tolist(), heights[:, known].T.tolist(), (-math.inf, math.inf), factor)
