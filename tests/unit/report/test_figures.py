"""Panels as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.report.figures import Drawing, Line, draw, save


def panel(scale: Any = "linear", title: str = "one") -> Drawing:
    x: list[Any] = ["a", "b"] if scale == "names" else [1, 16]
    lines = [
        Line("vgg11", x, [40.0, 50.0], low=[39.0, 48.0], high=[41.0, 52.0]),
        Line("alpha = 1", x, [30.0, 20.0], low=[30.0, 20.0], high=[30.0, 20.0]),
    ]
    lines.append(Line("teacher", x, [10.0, 10.0], "teacher", "vgg11"))
    return Drawing(title, "where", "how much", scale, [*lines, Line("the paper's", x[:1], [60.0], "paper", "vgg11")])


def test_panels_stand_in_rows_under_one_legend() -> None:
    figure = draw([panel(), panel(title="two"), panel(title="three")], "Figure 0", 2)
    assert [axis.get_title() for axis in figure.axes] == ["one", "two", "three", ""]
    assert figure.get_suptitle() == "Figure 0"
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("where", "how much")
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels[:2]) == ["alpha = 1", "vgg11"]
    assert labels[2:] == ["teacher", "the paper's"]


@pytest.mark.parametrize(("scale", "axis"), [("linear", "linear"), ("log2", "log"), ("log10", "log")])
def test_axes_are_scaled_and_lines_are_where_they_belong(scale: Any, axis: str) -> None:
    (drawn,) = draw([panel(scale)], "", 1).axes
    assert drawn.get_xscale() == axis
    ours, other, teacher, printed = drawn.lines
    assert (list(ours.get_xdata()), list(ours.get_ydata())) == ([1, 16], [40, 50])
    assert ours.get_color() == teacher.get_color() == printed.get_color() != other.get_color()
    assert teacher.get_linestyle() == "--"
    assert len(drawn.collections) == 2


def test_names_are_ticks_and_lines_stand_side_by_side() -> None:
    (drawn,) = draw([panel("names")], "", 1).axes
    assert [tick.get_text() for tick in drawn.get_xticklabels()] == ["a", "b"]
    positions = {round(float(line.get_xdata()[0]), 2) for line in drawn.lines}
    assert positions >= {-0.06, 0.06}


def test_there_is_no_band_without_an_interval() -> None:
    line = Line("student", [0, 1], [40.0, 50.0], low=[np.nan, np.nan], high=[np.nan, np.nan])
    (axis,) = draw([Drawing("", "epoch", "%", "linear", [line])], "two seeds", 1).axes
    assert list(axis.collections[0].get_paths()) == []


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"figure.{suffix}"
    save(draw([panel()], "demo", 1), path)
    if suffix == "png":
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300
    else:
        assert "</svg>" in path.read_text()


@pytest.mark.parametrize(("lowest", "bottom"), [(20.0, None), (0.0, 0.0)])
def test_no_panel_is_cut_off_by_the_limits_of_another(lowest: float, bottom: float | None) -> None:
    """Panels share an axis: what is drawn last may lie lowest. Accuracies below 0 are not shown."""
    panels = [Drawing("", "epoch", "%", "linear", [Line("student", [0, 1], [80.0, low])]) for low in (70.0, lowest)]
    figure = draw(panels, "two panels", 2, same_heights=True)
    limits = {axis.get_ylim()[0] for axis in figure.axes}
    assert len(limits) == 1
    assert min(limits) <= lowest
    if bottom is not None:
        assert limits == {bottom}
