"""Last and best epoch, and the paper's numbers, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from rt_scale.report.beside import TITLES, BesideRow, beside_cells, beside_rows, beside_table, selection_bias
from rt_scale.report.results import Series, probed_runs, result_rows
from rt_scale.spec.grid import Point
from rt_scale.store.results import RunResult

Make = Callable[..., Any]
CURVES = ((0.30, 0.50, 0.46), (0.30, 0.44, 0.47), (0.30, 0.50, 0.48))


def rows(
    places: list[Point], results: Mapping[str, RunResult], experiment: str | None, curves: Mapping[str, Series]
) -> list[BesideRow]:
    found = probed_runs(places, results, dict.fromkeys(results, "done"), "linear", curves)
    return beside_rows(result_rows(places, {"linear": found}, "last", experiment))


@pytest.fixture
def made(point: Make, result: Make) -> Callable[..., list[BesideRow]]:
    """Three seeds of two encoders on CIFAR-10 (JPEG), with the curves above."""

    def make(experiment: str | None = "fig1", curves: Any = CURVES, changes: Any = ()) -> list[BesideRow]:
        values = {"data.name": "cifar10_jpeg", **dict(changes)}
        places = [point({**values, "encoder.name": name}, seed) for name in ("vgg11", "resnet18") for seed in range(3)]
        results, series = {}, {}
        for place in places:
            curve = curves[place.seed]
            results[place.spec.name] = result(curve[-1], 0.36, 0.37, max(curve))
            series[place.spec.name] = {"probe/student/linear": list(enumerate(curve))}
        return rows(places, results, experiment, series)

    return make


def test_a_seed_is_compared_with_itself_at_the_epoch_of_the_others() -> None:
    # The others of seed 0 are best at epoch 2 (0.95 against 0.94), those of seeds 1 and 2 at epoch 1.
    assert selection_bias(CURVES) == pytest.approx([0.04, 0.03, 0.0])
    assert selection_bias([(0.1, 0.5), (0.2, 0.4)]) == [0, 0]
    with pytest.raises(ValueError, match="no other seeds"):
        selection_bias([(0.1, 0.5)])


def test_last_best_and_the_paper_stand_in_one_row(made: Make) -> None:
    student, teacher, pixels, other, *_ = made()
    assert [each.of for each in (student, teacher, pixels, other)] == ["student", "teacher", "input", "student"]
    titles, cells, *_ = beside_cells([student])
    found = dict(zip(titles, cells, strict=True))
    assert {name: found[name] for name in ("probe", "of", "runs", "paper")} == {
        "probe": "linear", "of": "student", "runs": "3", "paper": "51.98",
    }  # fmt: skip
    assert found["last"].startswith("47.0 ± 1.0 [44.5, 49.5]")
    assert found["best"].startswith("49.0 ± 1.7 [44.7, 53.3]")
    assert found["choice"].startswith("+2.3 [")
    assert found["last - paper"] == "-5.0 [-7.5, -2.5]"
    assert found["best - paper"] == "-3.0 [-7.3, +1.3]"
    assert [each.verdict for each in (student, teacher, pixels, other)] == ["undecided", "holds", "holds", "undecided"]
    assert teacher.texts()[4:6] == ["-", "-"]


def test_an_input_that_configurations_share_has_one_row(made: Make) -> None:
    assert [each.of for each in made()] == ["student", "teacher", "input", "student", "teacher"]
    assert set(made()[2].shown.values()) == {"-"}


def test_without_the_paper_there_are_students_alone(made: Make) -> None:
    found = made(None)
    assert [(each.of, each.printed, each.verdict) for each in found] == [("student", None, None)] * 2
    assert beside_cells(found)[0][-1] == "choice"
    assert made(None, [(0.3,)] * 3) == []


def test_a_teacher_that_was_not_trained_is_beside_the_papers(made: Make) -> None:
    found = made("teachers", [(0.36,)] * 3)
    assert [(each.of, each.printed) for each in found] == [("teacher", 36.55), ("input", 39.02), ("teacher", 35.5)]


def test_seeds_probed_at_different_epochs_are_not_compared(made: Make) -> None:
    assert made(curves=[(0.3, 0.5), (0.3, 0.5), (0.3, 0.4, 0.5)])[0].chosen is None


def test_the_table_has_plain_numbers(made: Make) -> None:
    (first, second, *_) = beside_table(made()).to_pylist()
    assert (first["of"], first["paper"], first["n"], first["source"]) == ("student", 51.98, 3, "table 1")
    assert (first["best_mean"], first["last_mean"]) == pytest.approx((0.49, 0.47))
    assert first["choice_mean"] == pytest.approx(0.07 / 3)
    assert second["choice_mean"] is None
    assert len(TITLES) == len(replace(made()[0], printed=None).texts())
