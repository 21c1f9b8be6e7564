"""Panels as figures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rt_scale.report.figures.drawing import draw, save
from rt_scale.report.figures.panels import Drawing, Heatmap, Line, mean_line


def panel(scale: Any = "linear", title: str = "one") -> Drawing:
    x: list[Any] = ["a", "b"] if scale == "names" else [1, 16]
    lines = [
        Line("vgg11", x, [40.0, 50.0], low=[39.0, 48.0], high=[41.0, 52.0]),
        Line("alpha = 1", x, [30.0, 20.0], low=[30.0, 20.0], high=[30.0, 20.0]),
    ]
    lines.append(Line("teacher", x, [10.0, 10.0], "teacher", "vgg11"))
    lines.append(Line("the paper's", x[:1], [60.0], "paper", "vgg11"))
    return Drawing(title, "where", "how much", scale, lines, bars=scale == "names")


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


def test_curves_without_names_are_grey_behind_the_others_and_one_entry_of_the_legend() -> None:
    nan = float("nan")
    lines = [
        Line("alpha = 1", [0, 1], [1.0, 2.0]),
        Line("30 others", [0, 1, nan, 0, 1], [0.0, 0.2, nan, 0.3, 0.4], "others"),
    ]
    figure = draw([Drawing("", "epoch", "how much", "linear", lines)], "", 1)
    ours, others = figure.axes[0].lines
    assert others.get_zorder() < ours.get_zorder()
    assert others.get_color() == "0.8"
    assert figure.axes[0].get_ylim()[0] == 0
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["alpha = 1", "30 others"]
    assert [handle.get_color() for handle in legend.get_lines()][1] == "0.8"


def test_names_are_ticks_and_lines_stand_side_by_side() -> None:
    (drawn,) = draw([panel("names")], "", 1).axes
    assert [tick.get_text() for tick in drawn.get_xticklabels()] == ["a", "b"]
    first, second = [line for line in drawn.lines if line.get_marker() == "o"]
    assert first.get_transform() != second.get_transform()  # side by side
    assert [line.get_linestyle() for line in drawn.lines if line.get_marker() == "x"] == ["None"]  # the teacher
    low, high = drawn.get_ylim()
    assert low < 10
    assert high > 60


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


def test_few_seeds_are_thin_lines_and_many_are_a_band() -> None:
    few = mean_line("student", [0, 1], [[0.1, 0.3, 0.2], [0.2, 0.4, 0.3]], (0, 1), 100)
    many = mean_line("student", [0, 1], [[0.1, 0.3, 0.2, 0.4, 0.5]] * 2, (0, 1), 100)
    assert [list(values) for values in few.seeds] == [[10, 20], [30, 40], [20, 30]]
    assert many.seeds == ()
    drawn = [draw([Drawing("", "epoch", "%", "linear", [line])], "", 1).axes[0] for line in (few, many)]
    assert [(len(axis.lines), len(axis.collections)) for axis in drawn] == [(4, 0), (1, 1)]


def test_a_legend_is_read_from_left_to_right_in_numeric_order() -> None:
    lines = [Line(f"alpha = {alpha}", [0, 1], [1, 2]) for alpha in ("1", "1e-10", "0.5", "0.3", "0.6", "0.7")]
    (legend,) = draw([Drawing("", "epoch", "%", "linear", lines)], "", 1).legends
    texts = [text.get_text() for text in legend.get_texts()]
    columns = np.array_split(texts, legend._ncols)
    rows = itertools.zip_longest(*columns)
    assert [text for row in rows for text in row if text is not None] == [
        f"alpha = {each}" for each in ("1e-10", "0.3", "0.5", "0.6", "0.7", "1")
    ]


def test_an_encoder_has_one_colour_in_all_figures() -> None:
    def colours(*names: str) -> dict[str, object]:
        lines = [Line(name, [0, 1], [1, 2]) for name in names]
        (axis,) = draw([Drawing("", "epoch", "%", "linear", lines)], "", 1).axes
        return {name: line.get_color() for name, line in zip(names, axis.lines, strict=True)}

    both, one = colours("vgg16", "resnet18", "vgg11"), colours("vgg11")
    assert both["vgg11"] == one["vgg11"]
    assert len(set(both.values())) == 3


def test_references_of_single_lines_are_named() -> None:
    lines = [Line("vgg11", [0, 1], [1.0, 2.0]), Line("resnet18", [0, 1], [3.0, 4.0])]
    lines += [Line("input", [0, 1], [5.0, 5.0], "input", name) for name in ("vgg11", "resnet18")]
    (axis,) = draw([Drawing("", "epoch", "%", "linear", lines)], "", 1).axes
    assert [text.get_text() for text in axis.texts] == ["input, vgg11", "input, resnet18"]
    heights = [text.get_position()[1] for text in axis.texts]
    assert heights[1] - heights[0] >= 0.04


def test_a_map_has_a_number_in_each_cell() -> None:
    cells = Heatmap("both", "alpha", "outputs", "gain", ["0", "1"], ["16"], [[5.0, float("nan")]], [["+5.0 ▲", "-"]])
    axis = draw([cells], "", 1).axes[0]
    assert [text.get_text() for text in axis.texts] == ["+5.0 ▲", "-"]
    assert [text.get_fontweight() for text in axis.texts] == ["bold", "normal"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("alpha", "outputs")


def test_legends_are_in_the_order_of_their_numbers_and_words_come_last() -> None:
    labels = ["layer = embedding", "layer = 10", "layer = 2"]
    lines = [Line(label, (0.0, 1.0), (0.0, 1.0)) for label in labels]
    (legend,) = draw([Drawing("", "x", "y", "linear", lines)], "", 1).legends
    assert [text.get_text() for text in legend.get_texts()] == labels[::-1]


@pytest.mark.parametrize("columns", [1, 2])
def test_a_long_title_stays_within_the_figure(columns: int) -> None:
    words = "a sweep, gain over own teacher, k-nearest-neighbour probe, CIFAR-10 (re-encoded as JPEG)"
    figure = draw([panel()] * columns, words, columns)
    figure.canvas.draw()
    title = figure.get_suptitle()
    assert title.replace("\n", " ") == words
    assert ("\n" in title) == (columns == 1)
    (text,) = (each for each in figure.texts if each.get_text() == title)
    assert figure.bbox.x0 <= text.get_window_extent().x0
    assert text.get_window_extent().x1 <= figure.bbox.x1
