"""Figures as lines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rt_scale.report.figures.panels import BEST, MANY, Line, drawings
from rt_scale.report.paper import Panel
from rt_scale.report.results import ProbedRun, Scores


def run(seed: int, student: float, best: float = 0.0, level: float = 0.3, **at: Any) -> ProbedRun:
    curve = ((0, level), (4, student))
    shared = {"data": "cifar10", "probed": "cifar10", "probe": "linear", "encoder": "vgg11", "alpha": 1e-10}
    scores = Scores(0.39, level, student, best, curve, 1.0)
    return ProbedRun(f"run-{at}-{seed}", seed, {**shared, **at}, None, scores)


def runs(seeds: int = 2, **changes: Any) -> list[ProbedRun]:
    return [run(seed, 0.4 + alpha / 10 + seed / 100, 0.9, alpha=alpha, **changes)
            for alpha in (1e-10, 0.5) for seed in range(seeds)]  # fmt: skip


def test_epochs_have_a_line_for_each_value_with_teacher_and_input() -> None:
    (panel,) = drawings(Panel("epoch", "alpha", "encoder"), runs(), {}, "last", "fig3")
    assert (panel.title, panel.x_label, panel.y_label) == ("vgg11", "epoch", "probing accuracy (%)")
    near, far, teacher, pixels = panel.lines
    assert (near.label, far.label) == ("alpha = 1e-10", "alpha = 0.5")
    assert (list(near.x), list(near.y)) == ([0, 4], pytest.approx([30, 40.5]))
    assert list(far.y) == pytest.approx([30, 45.5])
    assert np.isnan([*far.low, *far.high]).all()  # of two seeds
    assert (teacher.style, list(teacher.x), list(teacher.y), teacher.of) == ("teacher", [0, 4], [30, 30], "")
    assert (pixels.style, list(pixels.y)) == ("input", [39, 39])


def test_lines_of_three_seeds_have_intervals_within_what_can_be() -> None:
    (panel,) = drawings(Panel("epoch", "alpha", "encoder"), runs(3), {}, "last", "fig3")
    half = 4.3027 / 3**0.5
    assert list(panel.lines[1].low) == pytest.approx([30, 46 - half], abs=1e-3)
    assert list(panel.lines[1].high) == pytest.approx([30, 46 + half], abs=1e-3)
    accuracies = [run(seed, student, norm="none") for seed, student in enumerate((0.2, 0.9, 1.0))]
    (panel,) = drawings(Panel("epoch", "norm"), accuracies, {}, "last", "fig11")
    assert (panel.lines[0].low[1], panel.lines[0].high[1]) == (0, 100)
    values = {each.run: {"distance/from_init": [(0, 0.0), (4, 9.0 * each.seed)]} for each in accuracies}
    (panel,) = drawings(Panel("epoch", "norm", metric="distance/from_init"), accuracies, values, "last", "fig11")
    assert (panel.lines[0].low[1], panel.lines[0].high[1]) == (0, pytest.approx(9 + 9 * half, abs=1e-3))


def test_of_students_that_are_their_teachers_the_teachers_are_shown_above_the_input() -> None:
    panel = Panel("encoder", "probe", scale="names")
    members = [run(seed, level, level, level, encoder=name)
               for name, level in (("vgg11", 0.3), ("vgg16", 0.2)) for seed in range(3)]  # fmt: skip
    (alone,) = drawings(panel, members, {}, "last", "teachers")
    assert [(line.label, line.style, line.of) for line in alone.lines] == [
        ("teacher", "ours", ""), ("input", "input", ""), ("paper's teacher", "paper", "teacher"),
    ]  # fmt: skip
    assert [list(line.y) for line in alone.lines] == [
        pytest.approx(each) for each in ([30, 20], [39, 39], [36.55, 33.08])
    ]
    (trained,) = drawings(panel, [*members, run(0, 0.5, 0.5, encoder="vgg13")], {}, "last", "teachers")
    assert [line.label for line in trained.lines[:2]] == ["student", "teacher"]


def test_teachers_that_differ_have_a_line_each() -> None:
    members = [run(0, 0.5, norm="batch"), run(0, 0.5, level=0.2, norm="none")]
    (panel,) = drawings(Panel("epoch", "norm"), members, {}, "last", "fig11")
    teachers = [line for line in panel.lines if line.style == "teacher"]
    assert [(line.of, line.y[0]) for line in teachers] == [("batch", 30), ("none", 20)]


def test_a_teacher_that_moves_is_a_curve_beside_those_that_stay() -> None:
    members = [run(seed, 0.5, level=0.4, probed=probed, **{"teacher": moves})
               for seed in (0, 1) for moves in ("frozen", "average, 0.9") for probed in ("stl10",)]  # fmt: skip
    name = "probe@stl10/teacher/linear"
    metrics = {each.run: {name: [(0, 0.3), (4, 0.4 if each.at["teacher"] != "frozen" else 0.3)]} for each in members}
    (panel,) = drawings(Panel("epoch", "teacher"), members, metrics, "last", "ema")
    moving, still = [line for line in panel.lines if line.style == "teacher"]
    assert (moving.of, list(moving.x), list(moving.y)) == ("average, 0.9", [0, 4], pytest.approx([30, 40]))
    assert (still.of, list(still.y)) == ("", pytest.approx([40, 40]))


def test_a_gain_is_over_the_own_teacher_with_zero_as_reference() -> None:
    members = [run(seed, 0.5 + 0.1 * seed, alpha=0.5) for seed in range(3)]
    metrics = {each.run: {"probe/teacher/linear": [(0, 0.3), (4, level)]}
               for each, level in zip(members, (0.3, 0.2, 0.1), strict=True)}  # fmt: skip
    (panel,) = drawings(Panel("epoch", "alpha", metric="gain"), members, metrics, "last", None)
    gain, zero = panel.lines
    assert (panel.y_label, gain.label) == ("gain over own teacher (points)", "alpha = 0.5")
    assert (list(gain.x), list(gain.y)) == ([0, 4], pytest.approx([0, 40]))
    assert gain.high[1] == pytest.approx(40 + 100 * 4.3027 * 0.2 / 3**0.5, abs=0.01)
    assert (zero.style, list(zero.x), list(zero.y)) == ("teacher", [0, 4], [0, 0])


def many(lines: int) -> list[ProbedRun]:
    """Runs of as many alphas, the students of the last of which end best."""
    return [run(seed, 0.4 + number / 1000 + seed / 100, alpha=(number + 1) / 100)
            for number in range(lines) for seed in range(3)]  # fmt: skip


def test_of_many_curves_the_best_are_named_and_the_others_are_one_line() -> None:
    def drawn(lines: int, metric: str = "accuracy") -> list[Line]:
        members = many(lines)
        metrics = {each.run: {"train/kl": [(0, 1.0), (4, 2.0)], "probe/teacher/linear": [(0, 0.3), (4, 0.3)]}
                   for each in members}  # fmt: skip
        (panel,) = drawings(Panel("epoch", "alpha", metric=metric), members, metrics, "last", None)
        return list(panel.lines)

    assert [line.style for line in drawn(MANY)].count("ours") == MANY
    lines = drawn(MANY + 1)
    named = [line.label for line in lines if line.style == "ours"]
    assert named == [f"alpha = {(number + 1) / 100}" for number in range(MANY + 1 - BEST, MANY + 1)]
    (others,) = (line for line in lines if line.style == "others")
    assert others.label == f"{MANY + 1 - BEST} others"
    assert list(others.x[:6]) == pytest.approx([0, 4, math.nan, 0, 4, math.nan], nan_ok=True)
    assert list(others.y[:5]) == pytest.approx([30, 41, math.nan, 30, 41.1], nan_ok=True)
    assert len(others.y) == 3 * (MANY + 1 - BEST)
    assert [line.style for line in lines[BEST + 1 :]] == ["teacher", "input"]
    # The other panels of a figure name the same.
    for metric, y in (("gain", [0, 11, math.nan]), ("train/kl", [1, 2, math.nan])):
        also = drawn(MANY + 1, metric)
        assert [line.label for line in also if line.style == "ours"] == named
        assert list(next(line for line in also if line.style == "others").y[:3]) == pytest.approx(y, nan_ok=True)


def test_a_list_is_told_in_short_with_its_name() -> None:
    members = [run(0, 0.5, **{"projector.hidden": hidden}) for hidden in ([16], [16, 8])]
    (panel,) = drawings(Panel("epoch", "projector.hidden"), members, {}, "last", None)
    assert [line.label for line in panel.lines[:2]] == ["hidden = 16", "hidden = 16+8"]


@pytest.mark.parametrize(("which", "expected"), [("last", [40.5, 45.5]), ("best", [90, 90])])
def test_a_summary_has_ours_the_teacher_and_the_papers_number(which: Any, expected: list[float]) -> None:
    (panel,) = drawings(Panel("alpha", "encoder"), runs(), {}, which, "fig3")
    ours, teacher, printed = panel.lines
    assert (ours.label, list(ours.x), list(ours.y)) == ("vgg11", [1e-10, 0.5], pytest.approx(expected))
    assert (teacher.style, teacher.of, list(teacher.y)) == ("teacher", "vgg11", [30, 30])
    assert (printed.style, list(printed.x), list(printed.y)) == ("paper", [1e-10], [51.98])


def test_names_stay_in_their_order_and_unknown_positions_are_left_out() -> None:
    members = [run(0, 0.5, encoder=name) for name in ("vgg11", "resnet18")]
    (panel,) = drawings(Panel("encoder", "probe", scale="names"), members, {}, "last", "tab5")
    assert list(panel.lines[0].x) == ["vgg11", "resnet18"]
    members = [run(0, 0.5, samples=n) for n in (500, None)]
    (panel,) = drawings(Panel("samples", "data", scale="log10"), members, {}, "last", "fig4_steps")
    assert list(panel.lines[0].x) == [500]


def test_a_metric_is_drawn_once_a_run_however_often_it_is_probed() -> None:
    members = runs() + [
        ProbedRun(each.run, each.seed, {**each.at, "probed": "stl10"}, None, each.scores) for each in runs()
    ]
    metrics = {each.run: {"train/kl": [(1, 0.2 + each.seed), (2, 0.1)]} for each in members}
    (panel,) = drawings(Panel("epoch", "alpha", "encoder", "train/kl"), members, metrics, "last", "fig3")
    assert [list(line.y) for line in panel.lines] == [pytest.approx([0.7, 0.1])] * 2
    assert panel.y_label == "KL divergence (training)"
    probed = drawings(Panel("epoch", "alpha", "encoder"), members, metrics, "last", "fig3")
    assert [each.title for each in probed] == ["vgg11, CIFAR-10", "vgg11, CIFAR-10 → STL-10"]


def test_what_else_varies_has_panels_of_its_own() -> None:
    members = [run(0, 0.5, alpha=0.1, **{"train.epochs": epochs}) for epochs in (5, 50)]
    panels = drawings(Panel("epoch", "alpha", "encoder"), members, {}, "last", "fig3")
    assert [each.title for each in panels] == ["vgg11, train.epochs 5", "vgg11, train.epochs 50"]
    assert all([line.label for line in each.lines if line.style == "ours"] == ["alpha = 0.1"] for each in panels)


def test_runs_without_results_draw_nothing() -> None:
    absent = [ProbedRun(each.run, each.seed, each.at) for each in runs()]
    for panel in (Panel("epoch", "alpha", "encoder"), Panel("alpha", "encoder")):
        assert drawings(panel, absent, {}, "last", "fig3") == []


def test_panels_and_lines_are_in_numeric_order() -> None:
    members = [run(0, 0.5, alpha=alpha, outputs=outputs) for outputs in (1024, 64) for alpha in (1.0, 0.5)]
    panels = drawings(Panel("epoch", "alpha"), members, {}, "last", None)
    assert [panel.title for panel in panels] == ["outputs 64", "outputs 1024"]
    assert [line.label for line in panels[0].lines[:2]] == ["alpha = 0.5", "alpha = 1"]


def test_a_panel_of_a_transfer_says_from_where_to_where() -> None:
    members = [run(0, 0.5, probed=probed) for probed in ("cifar10", "stl10")]
    panels = drawings(Panel("encoder", "encoder", "probed", scale="names"), members, {}, "last", "tab2")
    assert [panel.title for panel in panels] == ["CIFAR-10", "CIFAR-10 → STL-10"]


@pytest.mark.parametrize(
    ("data", "other_size", "words"),
    [
        ("cifar10", False, ""),
        ("cifar10_jpeg", False, " (other data)"),
        ("cifar10_jpeg", True, " (other data and size)"),
    ],
)
def test_the_papers_values_are_named_as_what_they_are(data: str, other_size: bool, words: str) -> None:
    members = runs(data=data, probed=data)
    (panel,) = drawings(Panel("alpha", "encoder"), members, {}, "last", "fig3", other_size=other_size)
    assert [line.label for line in panel.lines if line.style == "paper"] == [f"paper's student{words}"]


def test_parts_of_the_bottleneck_are_words() -> None:
    members = [run(0, 0.5, parts=parts) for parts in ("-/lb/fn/wn/l/-", "-/lb/fn/-/l/-", "-/-/-/-/l/fn")]
    (panel,) = drawings(Panel("epoch", "parts"), members, {}, "last", "fig12")
    labels = [line.label for line in panel.lines if line.style == "ours"]
    assert labels[:2] == ["whole bottleneck", "without weight norm"]
    assert labels[2] == "without first layer and feature norm and weight norm, with norm of outputs"
