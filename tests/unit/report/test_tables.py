from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from rt_scale.report.contents import with_interval
from rt_scale.report.tables import (
    PROBES,
    Estimate,
    caption,
    cells,
    estimate,
    estimates,
    gain_text,
    header,
    probe_keys,
    rows,
    to_markdown,
    to_rich,
)
from rt_scale.spec.grid import Point, value_label
from rt_scale.spec.metrics import ACCURACY

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
    assert (with_interval(found), gain_text(found)) == ("50.0 ± 70.7", "+50.0")


def test_no_interval_leaves_what_can_be() -> None:
    found = estimates("linear", [(0.99, 0.02, 0.9), (0.9, 0.3, 0.98), (0.99, 0.01, 0.99)])
    assert with_interval(found["input"]) == "96.0 ± 5.2 [83.1, 100.0]"
    assert with_interval(found["teacher"]) == "11.0 ± 16.5 [0.0, 51.9]"
    assert gain_text(found["gain"]) == "+84.7 [+46.7, +100.0]"
    assert gain_text(estimates("knn", [(0.5, 1.0, 0.0), (0.5, 1.0, 0.3)] * 2)["gain"]) == "-85.0 [-100.0, -57.4]"


@pytest.fixture
def finished(point: Make, result: Make) -> list[tuple[Point, dict[str, Any]]]:
    """Two configurations of three and one seeds; seeds vary slowest, as in a sweep."""
    numbers = {(0.5, 0): (0.6, 0.5, 0.7, 0.65), (1.0, 0): (0.4, 0.5, 0.7, 0.4)}
    numbers |= {(0.5, 1): (0.5, 0.3, 0.7, 0.5), (0.5, 2): (0.8, 0.7, 0.7, 0.9)}
    return [(point({"student.alpha": alpha}, seed), result(*row)) for (alpha, seed), row in numbers.items()]


def test_gains_are_paired_with_their_own_teacher(finished: Any) -> None:
    first, second = rows(finished, "linear")
    assert (first.values, second.values) == ({"student.alpha": 0.5}, {"student.alpha": 1.0})
    assert first.student == estimate([0.6, 0.5, 0.8], ACCURACY)
    assert first.teacher == estimate([0.5, 0.3, 0.7], ACCURACY)
    assert first.input == estimate([0.7] * 3, ACCURACY)
    gains = [0.6 - 0.5, 0.5 - 0.3, 0.8 - 0.7]
    assert first.gain == estimate(gains, (-1.0, 1.0))
    paired = stats.ttest_rel([0.6, 0.5, 0.8], [0.5, 0.3, 0.7]).confidence_interval(0.95)
    assert first.gain.low == pytest.approx(paired.low)
    assert (second.gain.n, second.gain.mean, second.gain.std) == (1, pytest.approx(-0.1), None)


def test_best_is_the_students_alone(finished: Any) -> None:
    last, best = rows(finished, "linear", "last")[0], rows(finished, "linear", "best")[0]
    assert best.student == estimate([0.65, 0.5, 0.9], ACCURACY)
    assert best.gain.mean == pytest.approx(np.mean([0.15, 0.2, 0.2]))
    assert (best.teacher, best.input) == (last.teacher, last.input)


def test_runs_without_the_probe_are_left_out(finished: Any, point: Make, result: Make) -> None:
    assert rows(finished, "knn") == []
    more = [*finished, (point({"student.alpha": 0.5}, 3), result(0.1, 0.1, 0.1, probe="knn"))]
    assert [row.student.n for row in rows(more, "knn")] == [1]
    assert rows(more, "linear") == rows(finished, "linear")


def test_a_row_as_text(finished: Any) -> None:
    table = rows(finished, "linear")
    assert header(table) == ["alpha", "runs", "input", "teacher", "student", "gain [95 %]"]
    assert cells(table[0])[:5] == ["0.5", "3", "70.0 ± 0.0", "50.0 ± 20.0", "63.3 ± 15.3"]
    assert cells(table[0])[5] == gain_text(table[0].gain) == "+13.3 [-1.0, +27.7]"
    assert cells(table[1]) == ["1", "1", "70.0", "50.0", "40.0", "-10.0"]
    assert header([])[0] == "runs"


def test_a_row_tells_a_run_to_start_from_in_short(point: Make, result: Make) -> None:
    start = {"run": point({}).spec.model_dump(mode="json"), "take": "init"}
    found = [(point({"teacher.start_from": value}), result(0.6, 0.5, 0.7)) for value in (None, start)]
    assert [cells(row)[0] for row in rows(found, "linear")] == ["none", value_label(start)]


def test_markdown_is_a_table_with_its_caption(finished: Any) -> None:
    table = rows(finished, "linear")
    text, empty, titles, rule, *body = to_markdown(table, "last").splitlines()
    assert text == caption("linear", "last") + "."
    assert empty == ""
    assert titles == "| alpha | runs | input | teacher | student | gain [95 %] |"
    assert rule == "|" + " ---: |" * 6
    assert body == [f"| {' | '.join(cells(row))} |" for row in table]


def test_the_caption_names_probe_and_epoch() -> None:
    assert "student after its last epoch" in caption("linear", "last")
    assert "student after its best probed epoch" in caption("linear", "best")
    assert caption("knn_standardized", "last").startswith("k-nearest-neighbour probe, standardised features: ")


def test_the_terminal_shows_every_cell_and_certain_gains_in_bold(finished: Any, point: Make, result: Make) -> None:
    sure = [(point({"student.alpha": 0.1}, seed), result(0.9 + seed / 100, 0.1, 0.5)) for seed in range(3)]
    table = rows([*finished, *sure], "linear")
    console = Console(width=200, record=True, force_terminal=True)
    console.print(to_rich(table, "best"))
    text = console.export_text(clear=False)
    for row in table:
        for cell in cells(row):
            assert cell in text
    assert [row.style for row in to_rich(table, "best").rows] == ["", "", "bold"]


def test_rows_are_plain_json(finished: Any) -> None:
    plain = json.loads(json.dumps([row.to_json() for row in rows(finished, "linear")]))
    assert plain[0]["values"] == {"student.alpha": 0.5}
    assert plain[0]["gain"]["n"] == 3
    assert plain[1]["gain"]["std"] is None


def test_probes_on_other_data_sets_have_tables_of_their_own(point: Make, result: Make) -> None:
    place = point({"probe.also": ["stl10", "mnist"]})
    finished = [(place, result(0.6, 0.5, 0.7, probe="linear"))]
    on_stl10 = result(0.3, 0.2, 0.1, probe="linear")
    (ours,) = (each for _, each in finished)
    for here, there in ((ours.last, on_stl10.last), (ours.best, on_stl10.best)):
        here.update({name.replace("probe/", "probe@stl10/"): value for name, value in there.items()})
    keys = probe_keys([place])
    assert keys[: len(PROBES)] == list(PROBES)
    assert keys[len(PROBES) :] == [f"{probe}@{data}" for data in ("mnist", "stl10") for probe in PROBES]
    (row,) = rows(finished, "linear@stl10")
    assert (row.probe, row.student.mean, row.teacher.mean, row.input.mean) == ("linear@stl10", 0.3, 0.2, 0.1)
    assert rows(finished, "linear@mnist") == []
    assert "linear probe on stl10" in to_markdown([row], "last")
    assert rows(finished, "linear")[0].student.mean == 0.6
