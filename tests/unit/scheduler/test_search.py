"""A search as a source of runs, with the real Optuna and a store; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rt_scale.scheduler.search import Search
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import STOPPED, EarlyStop, EarlyStops, SweepRuns, read_sampled
from tests.records import run_result

METRIC = "probe/student/linear"


def sweep(store: Store, runs: int = 30, **space: Any) -> SweepRuns:
    spec = SweepSpec.model_validate(
        {
            "name": "s",
            "base": {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}},
            "seeds": [3],
            "explore": {
                "metric": METRIC,
                "mode": "max",
                "stop": {"asha": {"grace": "5ep"}},
                "search": {"optuna": {"runs": runs}},
                "space": space or {"student.alpha": {"uniform": [0, 1]}},
            },
        }
    )
    return SweepRuns(spec, [], store)


def value(point: Point) -> float:
    return -abs(point.spec.student.alpha - 0.7)


def finish(store: Store, point: Point) -> None:
    run_dir = store.run(point.spec)
    with run_dir.acquire():
        run_dir.write_spec(point.spec)
        run_dir.complete(run_result({METRIC: value(point), "train/loss": 1.0}))


def drive(search: Search, store: Store, most: int = 100) -> list[Point]:
    points: list[Point] = []
    while len(points) < most and (point := search.next()) is not None:
        points.append(point)
        finish(store, point)
        search.ended(point.spec.name, value(point))
    return points


def names(points: Sequence[Point]) -> list[str]:
    return [point.spec.name for point in points]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_it_learns_from_the_runs_and_a_second_driver_goes_on(store: Store, tmp_path: Path) -> None:
    whole = drive(Search(sweep(store)), store)
    assert len(whole) == 30
    assert {point.seed for point in whole} == {3}
    assert sum(value(point) > -0.1 for point in whole[20:]) >= 5  # 2 of 10 by chance
    assert names(sweep(store).points) == names(whole)
    other = Store(tmp_path / "other")
    first = drive(Search(sweep(other)), other, most=18)
    assert sweep(other).to_sample == 12
    assert names(first + drive(Search(sweep(other)), other)) == names(whole)
    plain = replace(sweep(store), spec=sweep(store).spec.model_copy(update={"explore": None}))
    assert (plain.points, plain.to_sample, plain.early_stopped) == ([], 0, {})


def test_what_a_first_driver_left_is_run_first_and_what_ended_is_not_run_again(store: Store) -> None:
    search = Search(sweep(store, 4))
    points = [search.next() for _ in range(4)]
    assert search.next() is None
    done, ended, failed, open_ = (point for point in points if point is not None)
    finish(store, done)
    section = sweep(store).spec.explore
    assert section is not None
    stop = EarlyStop("asha", 30, 5.0, "ep", METRIC, 0.1)
    EarlyStops(section, store.sweep("s")).record(ended.spec.name, stop)
    assert sweep(store).early_stopped == {ended.spec.name: stop}
    again = Search(sweep(store, 4), failed=[failed.spec.name])
    assert again.next() == open_
    assert again.next() is None
    retried = Search(sweep(store, 5))
    assert [retried.next(), retried.next()] == [failed, open_]
    assert retried.next() not in points


@pytest.mark.parametrize("run", [{"step": 30, "value": 0.1, "reason": "asha after 5 epochs"}, "asha", None])
def test_early_stops_of_another_form_are_refused_in_words(store: Store, run: Any) -> None:
    section = sweep(store).spec.explore
    assert section is not None
    stops = EarlyStops(section, store.sweep("s"))
    stops.record("distill-0", EarlyStop("asha", 30, 5.0, "ep", METRIC, 0.1))
    path = store.sweep("s").path / STOPPED
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "runs": {"distill-0": run}}))
    with pytest.raises(InputError, match=r"stopped\.json' .* earlier version .* Remove it"):
        stops.runs()


def test_points_of_one_run_are_one_run(store: Store) -> None:
    """No normalisation is the encoder's own: two points of the space, one spec."""
    same = sweep(store, 10, **{"encoder.norm": [None, "none"], "student.alpha": [0.5]})
    search = Search(same)
    point = search.next()
    assert point is not None
    assert search.next() is None
    assert len(read_sampled(store.sweep("s"))) == 2
    search.ended(point.spec.name, 0.5)
    assert names(same.points) == [point.spec.name]
    finish(store, point)
    assert Search(same).next() is None


def test_a_point_that_is_no_run_is_left_out(store: Store) -> None:
    """Expanding a sweep refuses a space with a bad corner, as this one has, but knows none between."""
    gap = sweep(store, 40, **{"data.size": {"pow2": [2, 10]}, "student.alpha": [0.5]})
    points = drive(Search(gap), store)
    assert {point.spec.data.size for point in points} <= {4, 8, 16, 32, 64, 128, 256, 512}
    assert len(read_sampled(store.sweep("s"))) == 9
    assert names(gap.points) == names(points)
