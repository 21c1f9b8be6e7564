"""Gains over the axes of a sweep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rt_scale.report.figures.grids import gain_panels
from rt_scale.report.figures.panels import Drawing, Heatmap
from rt_scale.report.results import ProbedRun, Scores


def run(seed: int, gain: float, **at: Any) -> ProbedRun:
    shared = {"data": "digits", "probed": "digits", "probe": "linear", "encoder": "vgg11"}
    return ProbedRun(f"{at}-{seed}", seed, {**shared, **at}, None, Scores(0.5, 0.3, 0.3 + gain, 0.9))


def grid(seeds: int = 3) -> list[ProbedRun]:
    return [run(seed, 0.1 * alpha + outputs / 1000 + seed / 1000, alpha=alpha, outputs=outputs, width=outputs / 16)
            for outputs in (256, 16, 64, 1024) for alpha in (1.0, 0.1) for seed in range(seeds)]  # fmt: skip


def test_a_grid_is_a_map_and_gains_against_its_longest_axis() -> None:
    cells, against = gain_panels(grid(), "last")
    assert isinstance(cells, Heatmap)
    assert (cells.x_label, cells.y_label) == ("outputs", "alpha")
    assert (cells.columns, cells.rows) == (["16", "64", "256", "1024"], ["0.1", "1"])
    assert list(cells.values[0]) == pytest.approx([2.7, 7.5, 26.7, 103.5])
    assert cells.texts[1][0] == "+11.7 ▲"
    assert isinstance(against, Drawing)
    assert (against.scale, against.x_label, against.bars) == ("log2", "outputs", True)
    near, far, zero = against.lines
    assert (near.label, far.label, list(near.x)) == ("alpha = 0.1", "alpha = 1", [16, 64, 256, 1024])
    assert next(iter(far.y)) == pytest.approx(11.7)
    assert (zero.style, set(zero.y)) == ("teacher", {0.0})


def test_a_gain_of_two_seeds_has_no_mark() -> None:
    cells = gain_panels(grid(2), "last")[0]
    assert isinstance(cells, Heatmap)
    assert cells.texts[1][0] == "+11.6"
    best = gain_panels(grid(2), "best")[0]
    assert isinstance(best, Heatmap)
    assert best.texts[1][0] == "+60.0"


def test_one_axis_is_no_map_and_none_is_nothing() -> None:
    (against,) = gain_panels([run(seed, alpha, alpha=alpha) for alpha in (0.5, 0.1) for seed in (0, 1)], "last")
    assert isinstance(against, Drawing)
    assert [line.label for line in against.lines] == ["student", "teacher"]
    assert gain_panels([run(0, 0.1, alpha=0.5), run(1, 0.1, alpha=0.5)], "last") == []
    assert gain_panels([], "last") == []
    still = [replace(run(0, 0.0, alpha=alpha), scores=Scores(0.5, 0.3, 0.3, 0.3)) for alpha in (0.5, 0.1)]
    assert gain_panels(still, "last") == []  # no student has left its teacher


def test_what_else_varies_has_panels_of_its_own() -> None:
    runs = [run(0, 0.1, alpha=alpha, outputs=outputs, norm=norm)
            for norm in ("none", "batch") for alpha in (0.1, 0.5, 1.0) for outputs in (16, 64)]  # fmt: skip
    panels = gain_panels(runs, "last")
    assert [(type(panel), panel.title) for panel in panels] == [
        (Heatmap, "norm none"), (Drawing, "norm none"), (Heatmap, "norm batch"), (Drawing, "norm batch")
    ]  # fmt: skip
