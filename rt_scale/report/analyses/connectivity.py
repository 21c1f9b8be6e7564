"""Linear mode connectivity in a report: curves between runs as in figure 9, and tables of barriers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from rt_scale.report.analyses.base import (
    Analysed,
    Analysis,
    Asked,
    Picture,
    Table,
    configuration,
    damage_told,
    listed,
    start_word,
)
from rt_scale.report.paper_numbers import data_title, value_text
from rt_scale.report.results import NOTHING
from rt_scale.report.statistics import estimate
from rt_scale.spec.errors import counted
from rt_scale.spec.experiments.connect import ESTIMATION_IMAGES, ConnectSpec
from rt_scale.spec.grid import axis_names, grouped
from rt_scale.spec.metrics import metric_bounds

if TYPE_CHECKING:
    from rt_scale.report.figures.panels import Drawing, Line

CONNECTIVITY = "connectivity"
CURVES, PAIRS = "curves.parquet", "pairs.parquet"
SPLITS = ("test", "train")
MEASURES = {"error": (100.0, "points"), "loss": (1.0, "nats")}
"""What has a barrier -> by how much its numbers are multiplied for readers, and their unit then."""
LINES: Mapping[str, str] = {"": "", "_aligned": ", units matched"}
"""Ending of a column -> what is said of its line; the second goes to the second run with its units permuted."""
_DISTANCES = {"l2": "distance", "cosine": "cosine", "l2_aligned": "distance, aligned",
              "cosine_aligned": "cosine, aligned", "permuted": "units permuted"}  # fmt: skip
_CAPTION = (
    "Barriers between runs that differ in one seed: the highest value on the line less the mean of its ends, and less "
    "the straight line between the ends' values; means over pairs and seeds with the 95 % interval over seeds, and the "
    "standard deviation over pairs. Errors in percentage points, losses in nats."
)


@dataclass(frozen=True)
class Curves:
    """The rows of the two files of a run."""

    curves: Sequence[Mapping[str, Any]]
    pairs: Sequence[Mapping[str, Any]]

    def barrier(self, split: str, measure: str, kind: str = "barrier") -> float | None:
        """The mean over pairs; None if it was not measured."""
        values = self.barriers(split, measure, kind)
        return fmean(values) if values else None

    def barriers(self, split: str, measure: str, kind: str = "barrier") -> list[float]:
        """Of every pair; none if it was not measured."""
        return [row[kind] for row in self.pairs if (row["split"], row["measure"]) == (split, measure) and kind in row]


def read_curves(curves: Path, pairs: Path) -> Curves:
    """The files of a run; RunError if one is damaged."""
    found = []
    for path in (curves, pairs):
        with damage_told(path):
            found.append(pq.read_table(path).to_pylist())
    return Curves(*found)


def connect_runs(asked: Asked) -> list[Analysed[Curves]]:
    """The runs with their curves, if they have some."""
    found = []
    for point in asked.points:
        assert isinstance(point.spec, ConnectSpec)
        starts = listed(start_word(end.run) for end in point.spec.ends)
        at = configuration(CONNECTIVITY, point, start=starts)
        paths = [asked.artifact(point, name) for name in (CURVES, PAIRS)]
        curves = None if None in paths else read_curves(*paths)  # type: ignore[arg-type]
        found.append(Analysed(point, at, asked.states[point.spec.name], curves))
    return found


def analysis(asked: Asked) -> Analysis:
    """What the report shows of runs that connect others."""
    from rt_scale.report.figures.drawing import draw, save

    runs = connect_runs(asked)
    done = [run for run in runs if run.found is not None]
    if not done:
        return Analysis("Linear mode connectivity", ["No line is computed yet."], runs=runs)
    groups = _groups(done)
    name = "figure-9" if asked.experiment == "fig9" else "connectivity"
    title = f"{name.capitalize().replace('-', ' ')}, {listed(data_title(run.at['data']) for run in done)}"
    figure = draw(_panels(groups), title, 2)
    svg, png = (asked.folder / f"{name}.{form}" for form in ("svg", "png"))
    save(figure, svg, png)
    words = "lines are means over pairs and seeds, bands their standard deviation; a share is that of the second run"
    picture = Picture(name, f"{title}: {words}.", svg, png)
    return Analysis("Linear mode connectivity", _said(runs, done), [picture], _tables(groups), runs=runs)


def _groups(runs: Sequence[Analysed[Curves]]) -> dict[str, list[Analysed[Curves]]]:
    """The runs of each configuration, by its label."""
    axes = [key for key in dict.fromkeys(key for run in runs for key in run.at)
            if key not in ("analysis", "data", "probed", "start")]  # fmt: skip
    names = axis_names(axes)

    def label(run: Analysed[Curves]) -> str:
        values = [f"{names[key]} {value_text(key, run.at.get(key))}" for key in axes]
        return ", ".join([f"from {run.at['start']}", *values])

    return grouped(runs, label)


def _of(run: Analysed[Curves]) -> Curves:
    assert run.found is not None
    return run.found


def _said(runs: Sequence[Analysed[Curves]], done: Sequence[Analysed[Curves]]) -> list[str]:
    """What was computed, and with which statistics of norms."""
    pairs = sum(len({(row["first"], row["second"]) for row in _of(run).pairs}) for run in done)
    specs = [run.point.spec for run in done if isinstance(run.point.spec, ConnectSpec)]
    images = listed("all images" if spec.images is None else f"{spec.images:,} images" for spec in specs)
    return [
        f"{len(done)} of {counted(len(runs), 'run')} done, {counted(pairs, 'pair')}, "
        f"{listed(f'{spec.points} points' for spec in specs)} a pair, on {images} of each split.",
        f"Running statistics of batch norms, if there are any: {listed(map(_statistics, specs))}. Units of the second "
        f"run matched to the first's (align): {listed(spec.align for spec in specs)}.",
    ]


def _statistics(spec: ConnectSpec) -> str:
    """Those of a run, in words."""
    if spec.statistics != "estimated":
        return spec.statistics
    number = f"up to {ESTIMATION_IMAGES:,}" if spec.estimation_images is None else f"{spec.estimation_images:,}"
    return f"estimated at every point from {number} training images"


def _panels(groups: Mapping[str, Sequence[Analysed[Curves]]]) -> list[Drawing]:
    """Error and loss of each split, a line for each configuration."""
    from rt_scale.report.figures.panels import Drawing

    found = []
    for measure, (factor, _) in MEASURES.items():
        for split in SPLITS:
            drawn = [
                _line(label + words, runs, split, measure + ending, factor)
                for label, runs in groups.items()
                for ending, words in LINES.items()
            ]
            lines = [line for line in drawn if line is not None]
            if lines:
                label = f"{split} {measure}{' (%)' if measure == 'error' else ' (nats)'}"
                found.append(Drawing("", "share of the way between two runs", label, "linear", lines))
    return found


def _line(label: str, runs: Sequence[Analysed[Curves]], split: str, measure: str, factor: float) -> Line | None:
    from rt_scale.report.figures.panels import Line

    rows = [row for run in runs for row in _of(run).curves if row["split"] == split and measure in row]
    places = grouped(rows, lambda row: round(row["position"], 9))
    if not places:
        return None
    x = sorted(places)
    values = [[factor * row[measure] for row in places[place]] for place in x]
    means = [fmean(each) for each in values]
    spread = [stdev(each) if len(each) > 1 else 0.0 for each in values]
    low = [mean - each for mean, each in zip(means, spread, strict=True)]
    high = [mean + each for mean, each in zip(means, spread, strict=True)]
    return Line(label, x, means, low=low, high=high)


def _tables(groups: Mapping[str, Sequence[Analysed[Curves]]]) -> list[Table]:
    barriers = [["runs", "value", "barrier", "over the line between ends", "± over pairs", "pairs", "seeds"]]
    for label, runs in groups.items():
        for (ending, words), measure, split in itertools.product(LINES.items(), MEASURES, SPLITS):
            factor, unit = MEASURES[measure]
            kinds = [name + ending for name in ("barrier", "barrier_line")]
            over = [each for run in runs for each in _of(run).barriers(split, measure, kinds[0])]
            if over:
                texts = [_seeds(runs, split, measure, kind) for kind in kinds]
                spread = f"{factor * stdev(over):.3g}" if len(over) > 1 else NOTHING
                row = [label + words, f"{split} {measure} ({unit})", *texts, spread, str(len(over)), str(len(runs))]
                barriers.append(row)
    return [Table("barriers", _CAPTION, barriers), _distances(groups)]


def _seeds(runs: Sequence[Analysed[Curves]], split: str, measure: str, kind: str) -> str:
    """A barrier with its interval over seeds."""
    values = [value for run in runs if (value := _of(run).barrier(split, measure, kind)) is not None]
    found, factor = estimate(values, metric_bounds(f"{kind}/{split}/{measure}")), MEASURES[measure][0]
    if found.low is None or found.high is None:
        return f"{factor * found.mean:.3g}"
    return f"{factor * found.mean:.3g} [{factor * found.low:.3g}, {factor * found.high:.3g}]"


def _distances(groups: Mapping[str, Sequence[Analysed[Curves]]]) -> Table:
    """How far the ends are apart."""
    every = [row for runs in groups.values() for run in runs for row in _of(run).pairs]
    names = [name for name in _DISTANCES if any(row.get(name) is not None for row in every)]
    rows = [["runs", *(_DISTANCES[name] for name in names)]]
    for label, runs in groups.items():
        pairs = [row for run in runs for row in _of(run).pairs]
        columns = ([row[name] for row in pairs if row.get(name) is not None] for name in names)
        rows.append([label, *(f"{fmean(column):.4g}" if column else NOTHING for column in columns)])
    return Table("distances", "Between the weights of two runs, means over pairs.", rows)
