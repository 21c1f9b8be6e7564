from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from rt_scale.report.page import caption, to_rich
from rt_scale.report.results import PROBES, ResultRow, Which, probe_keys, probed_runs, result_rows
from rt_scale.report.statistics import Estimate, estimate, estimates
from rt_scale.spec.grid import Point
from rt_scale.spec.metrics import ACCURACY
from rt_scale.store.results import RunResult

Make = Callable[..., Any]
NUMBERS = [0.31, 0.42, 0.37, 0.55, 0.29]


@pytest.mark.parametrize("numbers", [NUMBERS, NUMBERS[:3], [0.5, 0.5, 0.5]])
def test_an_estimate_is_the_t_interval(numbers: list[float]) -> None:
    found = estimate(numbers, ACCURACY)
    assert found.n == len(numbers)
    assert found.mean == pytest.approx(np.mean(numbers), rel=1e-12)
    assert found.std == pytest.approx(np.std(numbers, ddof=1), abs=1e-15)
    if found.std:
        expected = stats.t.interval(0.95, len(numbers) - 1, np.mean(numbers), stats.sem(numbers))
        assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)
    else:
        assert (found.low, found.high) == (0.5, 0.5)


def test_one_number_has_no_spread() -> None:
    assert estimate([0.25], ACCURACY) == Estimate(0.25, None, None, None, 1)


def test_a_seed_that_diverged_is_not_hidden() -> None:
    assert estimate([math.inf, 1.0, 2.0], (0.0, math.inf)) == Estimate(math.inf, None, None, None, 3)
    assert math.isnan(estimate([math.nan, 1.0, 2.0], ACCURACY).mean)


def test_two_numbers_have_a_spread_and_no_interval() -> None:
    """By Student's t it would reach 6.35 to either side."""
    found = estimate([0.0, 1.0], ACCURACY)
    assert found == Estimate(0.5, pytest.approx(0.5**0.5), None, None, 2)
    assert (found.percent_interval, found.points) == ("50.0 ± 70.7", "+50.0")


def test_no_interval_leaves_what_can_be() -> None:
    found = estimates([(0.99, 0.02, 0.9), (0.9, 0.3, 0.98), (0.99, 0.01, 0.99)])
    assert found["input"].percent_interval == "96.0 ± 5.2 [83.1, 100.0]"
    assert found["teacher"].percent_interval == "11.0 ± 16.5 [0.0, 51.9]"
    assert found["gain"].points == "+84.7 [+46.7, +100.0]"
    assert estimates([(0.5, 1.0, 0.0), (0.5, 1.0, 0.3)] * 2)["gain"].points == "-85.0 [-100.0, -57.4]"


@pytest.fixture
def finished(point: Make, result: Make) -> list[tuple[Point, RunResult]]:
    """Two configurations of three and one seeds; seeds vary slowest, as in a sweep."""
    numbers = {(0.5, 0): (0.6, 0.5, 0.7, 0.65), (1.0, 0): (0.4, 0.5, 0.7, 0.4)}
    numbers |= {(0.5, 1): (0.5, 0.3, 0.7, 0.5), (0.5, 2): (0.8, 0.7, 0.7, 0.9)}
    return [(point({"student.alpha": alpha}, seed), result(*row)) for (alpha, seed), row in numbers.items()]


def rows(finished: list[tuple[Point, RunResult]], probe: str, which: Which = "last") -> list[ResultRow]:
    points, results = [point for point, _ in finished], {point.spec.name: result for point, result in finished}
    runs = probed_runs(points, results, dict.fromkeys(results, "done"), probe)
    return result_rows(points, {probe: runs}, which)[probe]


def test_gains_are_paired_with_their_own_teacher(finished: Any) -> None:
    first, second = rows(finished, "linear")
    assert (first.values, second.values) == ({"student.alpha": 0.5}, {"student.alpha": 1.0})
    assert first.measured["student"] == estimate([0.6, 0.5, 0.8], ACCURACY)
    assert first.measured["teacher"] == estimate([0.5, 0.3, 0.7], ACCURACY)
    assert first.measured["input"] == estimate([0.7] * 3, ACCURACY)
    gains = [0.6 - 0.5, 0.5 - 0.3, 0.8 - 0.7]
    assert first.measured["gain"] == estimate(gains, (-1.0, 1.0))
    paired = stats.ttest_rel([0.6, 0.5, 0.8], [0.5, 0.3, 0.7]).confidence_interval(0.95)
    assert first.measured["gain"].low == pytest.approx(paired.low)
    gain = second.measured["gain"]
    assert (gain.n, gain.mean, gain.std) == (1, pytest.approx(-0.1), None)


def test_best_is_the_students_alone(finished: Any) -> None:
    last, best = (rows(finished, "linear", which)[0].measured for which in ("last", "best"))
    assert best["student"] == estimate([0.65, 0.5, 0.9], ACCURACY)
    assert best["gain"].mean == pytest.approx(np.mean([0.15, 0.2, 0.2]))
    assert (best["teacher"], best["input"]) == (last["teacher"], last["input"])


def test_runs_without_the_probe_are_counted_and_have_no_part_in_the_mean(
    finished: Any, point: Make, result: Make
) -> None:
    more = [*finished, (point({"student.alpha": 0.5}, 3), result(0.1, 0.1, 0.1, probe="knn"))]
    first, second = rows(more, "linear")
    assert first.measured == rows(finished, "linear")[0].measured
    assert (first.n, first.runs_text, second.runs_text) == (3, "3 of 4 (the others without this probe)", "1")
    assert [row.n for row in rows(more, "knn")] == [1, 0]


def test_a_row_as_text(finished: Any) -> None:
    first, second = rows(finished, "linear")
    assert dict(first.shown) == {"alpha": "0.5"}
    gain = "+13.3 [-1.0, +27.7]"
    assert first.measured_texts(intervals=False) == ["70.0 ± 0.0", "50.0 ± 20.0", "63.3 ± 15.3", gain]
    assert first.measured_texts()[0] == "70.0 ± 0.0 [70.0, 70.0]"
    assert second.measured_texts() == ["70.0", "50.0", "40.0", "-10.0"]


def test_a_row_is_of_one_value_of_an_axis_even_where_that_is_a_seed(point: Make, result: Make) -> None:
    found = [(point({"seeds.data": value}, seed), result(0.6, 0.5, 0.7)) for seed in (0, 1) for value in (7, 8)]
    assert [(dict(row.shown), row.n, row.key) for row in rows(found, "linear")] == [
        ({"seeds.data": "7"}, 2, "configuration-1"),
        ({"seeds.data": "8"}, 2, "configuration-2"),
    ]


def test_the_caption_names_probe_data_and_epoch(finished: Any) -> None:
    table = rows(finished, "linear")
    assert caption(table, "last").startswith("linear probe, Digits: test accuracy in %")
    assert "student after its last epoch" in caption(table, "last")
    assert "student at its best probed epoch" in caption(table, "best")


def test_the_terminal_shows_every_cell_and_certain_gains_in_bold(finished: Any, point: Make, result: Make) -> None:
    sure = [(point({"student.alpha": 0.1}, seed), result(0.9 + seed / 100, 0.1, 0.5)) for seed in range(3)]
    table = rows([*finished, *sure], "linear")
    console = Console(width=200, record=True, force_terminal=True)
    console.print(to_rich(table, "best"))
    text = console.export_text(clear=False)
    for row in table:
        for cell in (*row.shown.values(), row.runs_text, *row.measured_texts(intervals=False)):
            assert cell in text
    assert to_rich(table, "best").styles == ["", "", "bold"]


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_shows_whole_values_of_many_axes(point: Make, result: Make, width: int) -> None:
    axes = {"encoder.name": "preresnet18", "data.name": "cifar10_jpeg", "projector.out_dim": 16384}
    found = [(point({**axes, "student.alpha": alpha}, seed), result(0.9 + seed / 100, 0.1 + alpha, 0.5))
             for alpha in (1e-10, 0.30001) for seed in range(3)]  # fmt: skip
    console = Console(width=width, record=True)
    console.print(to_rich(rows(found, "linear"), "last"))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for whole in ("preresnet18", "CIFAR-10 (re-encoded as JPEG)", "16384", "1e-10", "0.30001", "[+78.5, +83.5]"):
        assert whole in text


def test_rows_are_plain_json(finished: Any) -> None:
    plain = json.loads(json.dumps([row.to_json() for row in rows(finished, "linear")]))
    assert (plain[0]["values"], plain[0]["probe"]) == ({"student.alpha": 0.5}, "linear")
    assert plain[0]["gain"]["n"] == 3
    assert plain[1]["gain"]["std"] is None


def test_probes_on_other_data_sets_have_tables_of_their_own(point: Make, result: Make) -> None:
    place = point({"probe.also": ["stl10", "mnist"], "probe.knn": 0, "probe.standardized": False})
    numbers = result(0.6, 0.5, 0.7)
    on_stl10 = result(0.3, 0.2, 0.1)
    for here, there in ((numbers.last, on_stl10.last), (numbers.best, on_stl10.best)):
        here.update({name.replace("probe/", "probe@stl10/"): value for name, value in there.items()})
    finished = [(place, numbers)]
    keys = probe_keys([place])
    assert keys == ["linear", "linear@mnist", "linear@stl10"]
    assert set(keys) <= {*PROBES, *(f"{probe}@{data}" for data in ("mnist", "stl10") for probe in PROBES)}
    (row,) = rows(finished, "linear@stl10")
    means = [row.measured[role].mean for role in ("student", "teacher", "input")]
    assert (row.probe, row.data, means) == ("linear@stl10", ("digits", "stl10"), [0.3, 0.2, 0.1])
    assert [each.n for each in rows(finished, "linear@mnist")] == [0]
    assert "probed on STL-10" in caption([row], "last")
    assert rows(finished, "linear")[0].measured["student"].mean == 0.6
