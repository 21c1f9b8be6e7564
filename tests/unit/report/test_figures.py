from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from rt_scale.report.figures import MOST_PANELS, Curve, curve, draw, save
from rt_scale.report.results import series

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def curves(point: Make) -> Callable[..., list[Curve]]:
    """Curves of two alphas, some output dimensions and some seeds."""

    def make(dims: int = 2, seeds: int = 3, epochs: int = 3) -> list[Curve]:
        found = []
        for seed in range(seeds):
            for dim in range(dims):
                for alpha in (0.1, 1.0):
                    place = point({"student.alpha": alpha, "projector.out_dim": 16 * 2**dim}, seed)
                    student = 0.3 + 0.1 * seed + alpha * np.arange(epochs) / 10
                    teacher = np.full(epochs, 0.3 + 0.1 * seed)
                    found.append(Curve(place, np.arange(epochs) * 1.0, student, teacher, 0.6))
        return found

    return make


@pytest.mark.parametrize(("group", "probe"), [("probe", "linear"), ("probe@mnist", "linear@mnist")])
def test_a_curve_is_read_from_the_metrics_table(point: Make, group: str, probe: str) -> None:
    rows = [(0, "student", 0.1), (0, "teacher", 0.3), (0, "input", 0.5), (4, "student", 0.4), (2, "student", 0.2)]
    rows += [(4, "teacher", 0.33), (2, "teacher", 0.32)]
    metrics = {
        "epoch": [epoch for epoch, _, _ in rows],
        "name": [f"{group}/{role}/linear" for _, role, _ in rows],
        "value": [value for _, _, value in rows],
    }
    found = curve(point({}), series(metrics), probe)
    assert found is not None
    assert found.epochs.tolist() == [0, 2, 4]
    assert found.student.tolist() == [0.1, 0.2, 0.4]
    assert found.teacher.tolist() == [0.3, 0.32, 0.33]
    assert found.input == 0.5
    assert curve(point({}), series(metrics), probe.replace("linear", "knn")) is None


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_a_column_for_each_combination_of_the_other_axes(curves: Make, dims: int) -> None:
    figure = draw(curves(dims), "linear", "demo")
    assert len(figure.axes) == 2 * dims
    assert [axis.get_title() for axis in figure.axes[:dims]] == [f"out_dim = {16 * 2**dim}" for dim in range(dims)]
    assert figure.get_suptitle() == "demo: linear probe"
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["student, alpha = 0.1", "student, alpha = 1", "teacher (mean)", "input pixels"]


def test_a_legend_tells_lists_in_short(point: Make) -> None:
    places = [point({"projector.hidden": hidden}) for hidden in ([16], [16, 8])]
    found = [Curve(place, np.arange(2.0), np.array([0.3, 0.4]), np.array([0.3, 0.3]), 0.6) for place in places]
    (legend,) = draw(found, "linear", "demo").legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["student, hidden = 16", "student, hidden = 16+8"]


def test_what_is_drawn_are_means_over_seeds_in_percent(curves: Make) -> None:
    figure = draw(curves(1), "linear", "demo")
    accuracy, gain = figure.axes
    low, high, teacher, pixels = accuracy.lines
    np.testing.assert_allclose(low.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(low.get_ydata(), [40, 41, 42])
    np.testing.assert_allclose(high.get_ydata(), [40, 50, 60])
    np.testing.assert_allclose(teacher.get_ydata(), [40, 40, 40])
    np.testing.assert_allclose(pixels.get_ydata(), [60, 60])
    np.testing.assert_allclose(gain.lines[0].get_ydata(), [0, 1, 2], atol=1e-12)
    np.testing.assert_allclose(gain.lines[1].get_ydata(), [0, 10, 20], atol=1e-12)


def test_a_teacher_that_moves_is_a_curve_of_its_own(point: Make) -> None:
    epochs = np.array([0.0, 1.0])
    curves = [
        Curve(point({"student.alpha": alpha}, seed), epochs, np.array([0.5, 0.7]), np.array([0.4, 0.4 + rise]), 0.6)
        for alpha, seed, rise in ((0.1, 0, 0.1), (0.1, 1, 0.2), (1.0, 0, 0.0))
    ]
    figure = draw(curves, "linear@stl10", "moving")
    accuracy, gain = figure.axes
    _, _, first, second, _ = accuracy.lines
    np.testing.assert_allclose(first.get_ydata(), [40, 55])
    np.testing.assert_allclose(second.get_ydata(), [40, 40])
    np.testing.assert_allclose(gain.lines[0].get_ydata(), [10, 15], atol=1e-12)
    assert figure.get_suptitle() == "moving: linear probe on stl10"


def test_bands_are_there_with_several_seeds(curves: Make) -> None:
    heights = {}
    for seeds in (1, 2, 3):
        band = draw(curves(1, seeds), "linear", "demo").axes[0].collections[0]
        heights[seeds] = [np.ptp(path.get_extents().get_points()[:, 1]) for path in band.get_paths()]
    # Fewer than three seeds have no interval, so no band.
    assert heights[1] == heights[2] == []
    assert heights[3][0] > 20


def test_bands_end_where_accuracies_do(point: Make) -> None:
    numbers = [(0.98, 0.02), (0.7, 0.3), (0.99, 0.01)]
    curves = [Curve(point({"student.alpha": 0.5}, seed), np.arange(2.0), np.array([high, high]), np.full(2, low), 0.9)
              for seed, (high, low) in enumerate(numbers)]  # fmt: skip
    accuracy, gain = draw(curves, "linear", "near the ends").axes
    for axis in (accuracy, gain):
        (path,) = axis.collections[0].get_paths()
        assert path.get_extents().y1 == 100
        assert path.get_extents().y0 < 60


def test_too_many_columns_are_counted_not_drawn(curves: Make) -> None:
    figure = draw(curves(MOST_PANELS + 3, seeds=1), "knn", "wide")
    assert len(figure.axes) == 2 * MOST_PANELS
    assert "(3 more configurations not drawn)" in figure.get_suptitle()


def test_a_sweep_without_axes_is_one_column(point: Make) -> None:
    figure = draw([Curve(point({}), np.array([0.0]), np.array([0.5]), np.array([0.4]), 0.6)], "linear", "one")
    assert len(figure.axes) == 2
    assert figure.legends[0].get_texts()[0].get_text() == "student"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_figure_is_written_and_its_memory_freed(curves: Make, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"figure.{suffix}"
    save(draw(curves(), "linear", "demo"), path)
    assert plt.get_fignums() == []
    if suffix == "png":
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300
    else:
        assert "</svg>" in path.read_text()


@pytest.mark.parametrize(("lowest", "bottom"), [(0.2, None), (0.0, 0.0)])
def test_no_panel_is_cut_off_by_the_limits_of_another(point: Make, lowest: float, bottom: float | None) -> None:
    """Panels share an axis: what is drawn last may lie lowest. Accuracies below 0 are not shown."""
    curves = [
        Curve(
            point({"student.alpha": 0.5, "projector.out_dim": dim}, seed), np.arange(2.0), values, np.full(2, 0.8), 0.9
        )
        for dim, low in ((16, 0.7), (32, lowest))
        for seed, values in enumerate((np.array([0.8, low]), np.array([0.8, low + 0.02])))
    ]
    figure = draw(curves, "linear", "two panels")
    drawn = [line.get_ydata() for axis in figure.axes[:2] for line in axis.lines]
    limit = figure.axes[0].get_ylim()[0]
    assert limit <= min(float(np.min(values)) for values in drawn)
    if bottom is not None:
        assert limit == bottom
