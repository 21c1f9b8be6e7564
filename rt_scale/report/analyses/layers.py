"""Statistics of layers in a report: how images propagate through a student while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rt_scale.report.analyses.base import Analysis, Asked, Picture, Table
from rt_scale.report.results import Series, series
from rt_scale.spec.experiments.training import training
from rt_scale.spec.grid import Point, axis_names, grouped, value_label
from rt_scale.spec.metrics import EMBEDDING, OF_LAYERS, layer_metric
from rt_scale.store.metrics import read_metrics

if TYPE_CHECKING:
    from rt_scale.report.figures.panels import Drawing

WORDS = {
    "cosine": "mean cosine of two images",
    "effective_rank": "effective rank",
    "log_condition": "log10 condition of the covariance",
    "separability": "variance between classes (share)",
}
_TITLE = "Layers along training"
_MOST = 12
"""Most pictures."""
_CAPTION = (
    "Student's layers at three moments: its start, where the mean cosine of its embeddings is largest, and its end; "
    "means over seeds."
)
Curve = Sequence[tuple[float, float]]
"""(epoch, mean over seeds)."""
Curves = Mapping[str, Mapping[str, Curve]]
"""Statistic -> layer, in order -> its curve."""


def analysis(asked: Asked) -> Analysis | None:
    """What the report shows of runs whose layers were measured; None without any."""
    from rt_scale.report.figures.drawing import draw, save

    measured = [point for point in asked.points if training(point.spec).probe.layers is not None]
    done = [point for point in measured if point.spec.name in asked.results]
    if not done:
        return None
    pictures, rows = [], [["runs", "layer", *(f"{WORDS[name]}: start, most alike, end" for name in OF_LAYERS)]]
    configurations = grouped(done, lambda point: point.configuration).values()
    names = axis_names(dict.fromkeys(key for members in configurations for key in members[0].values))
    for number, members in enumerate(configurations, 1):
        values = members[0].values
        title = ", ".join(f"{names[key]} {value_label(value)}" for key, value in values.items()) or "all runs"
        metrics = [series(read_metrics(asked.store.run(each.spec).metrics_path).to_pydict()) for each in members]
        curves = student_curves(members[0], metrics)
        rows += [[title, *row] for row in moments(curves)]
        if number <= _MOST:
            name = f"layers-{number}"
            svg, png = (asked.folder / f"{name}.{form}" for form in ("svg", "png"))
            save(draw(_drawings(curves, metrics), f"{title}: the student's layers", len(OF_LAYERS)), svg, png)
            pictures.append(Picture(name, f"{title}: the student's layers, means over {len(members)} seeds.", svg, png))
    said = [f"{len(done)} of {len(measured)} runs done. Layers are counted from the input; the last is the embedding."]
    return Analysis(_TITLE, said, pictures, [Table("layers", _CAPTION, rows)])


def student_curves(point: Point, metrics: Sequence[Series]) -> Curves:
    """The curves of the student of seeds of one configuration."""
    logged = training(point.spec).logged
    prefix = layer_metric("student", OF_LAYERS[0], "x").removesuffix("x")
    layers = [name.removeprefix(prefix) for name in logged if name.startswith(prefix)]
    return {
        name: {
            layer: _mean([each.get(layer_metric("student", name, layer), ()) for each in metrics]) for layer in layers
        }
        for name in OF_LAYERS
    }


def _mean(curves: Sequence[Curve]) -> Curve:
    """The mean of the curves at the epochs of the first."""
    epochs = [epoch for epoch, _ in curves[0]]
    same = [[value for _, value in curve] for curve in curves if [epoch for epoch, _ in curve] == epochs]
    return [(epoch, fmean(column)) for epoch, column in zip(epochs, zip(*same, strict=True), strict=True)]


def moments(curves: Curves) -> list[list[str]]:
    """A row a layer: its name, and each statistic at the start, where embeddings are most alike, and at the end."""
    embeddings = [value for _, value in curves["cosine"][EMBEDDING]]
    places = (0, embeddings.index(max(embeddings)), len(embeddings) - 1)
    return [
        [
            layer.lstrip("0"),
            *(", ".join(f"{curves[name][layer][place][1]:.3g}" for place in places) for name in OF_LAYERS),
        ]
        for layer in curves["cosine"]
    ]


def _drawings(curves: Curves, metrics: Sequence[Series]) -> list[Drawing]:
    from rt_scale.report.figures.panels import Drawing, Line

    found = []
    for name, layers in curves.items():
        lines = []
        for layer, curve in layers.items():
            epochs, values = zip(*curve, strict=True)
            lines.append(Line(f"layer = {layer.lstrip('0')}", epochs, values))
        pixels = [value for each in metrics for _, value in each.get(layer_metric("input", name, ""), ())]
        if pixels:
            lines.append(Line("input", (epochs[0], epochs[-1]), [fmean(pixels)] * 2, "input"))
        found.append(Drawing("", "epoch", WORDS[name], "linear", lines))
    return found
