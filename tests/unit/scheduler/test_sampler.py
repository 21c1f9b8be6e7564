"""Points of a search: drawn, kept, and learned from."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.scheduler import search as module
from rt_scale.scheduler.search import Search, require_optuna
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns, read_sampled
from tests.records import run_result
from tests.unit.scheduler.exploring import METRIC, SPACE, searching

BASE = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}


def sweep(folder: Path, runs: int = 40, **section: Any) -> SweepRuns:
    explore = searching(runs, **section)
    return SweepRuns(SweepSpec(name="s", base=BASE, explore=explore), [], Store(folder))


def search(folder: Path, runs: int = 40, **section: Any) -> Search:
    return Search(sweep(folder, runs, **section))


def recorded(folder: Path) -> list[dict[str, object]]:
    return read_sampled(Store(folder).sweep("s"))


def accuracy(values: dict[str, Any]) -> float:
    """Best, 0, at alpha = 1e-4, 4096 outputs, lr = 0.5 with batch norm."""
    return -(
        (math.log10(values["student.alpha"]) + 4) ** 2 / 16
        + (math.log2(values["projector.out_dim"]) - 12) ** 2 / 32
        + 2 * (values["train.optimizer.lr"] - 0.5) ** 2
        + (values["encoder.norm"] != "batch")
    )


def explored(source: Search, objective: Callable[[Any], float | None], most: int = 1000) -> list[Any]:
    """The next points, each told the value of the objective."""
    points: list[Any] = []
    while len(points) < most and (point := source.next()) is not None:
        points.append(point.values)
        source.ended(point.spec.name, objective(point.values))
    return points


def test_points_come_from_the_space(tmp_path: Path) -> None:
    points = explored(search(tmp_path, 30), accuracy)
    assert len(points) == 30
    for key, domain in searching().domains.items():
        low, high = domain.corners[0], domain.corners[-1]
        assert all(point[key] in domain.listed if domain.listed else low <= point[key] <= high for point in points)
    assert {point["encoder.norm"] for point in points} == {"batch", None, "layer"}
    assert sum(point["student.alpha"] < 1e-5 for point in points) >= 5
    assert all(point["student.alpha"] == float(f"{point['student.alpha']:g}") for point in points)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_it_finds_the_optimum_better_than_chance(tmp_path: Path, mode: str) -> None:
    sign = 1 if mode == "max" else -1
    best, by_chance = [], []
    for seed in range(5):
        points = explored(
            search(tmp_path / str(seed), seed=seed, mode=mode),
            lambda point: sign * accuracy(point),
        )
        best.append(max(map(accuracy, points)))
        draw = random.Random(seed)
        by_chance.append(
            max(
                accuracy(
                    {
                        "student.alpha": 10 ** draw.uniform(-10, 0),
                        "projector.out_dim": 2 ** draw.randint(0, 16),
                        "train.optimizer.lr": draw.random(),
                        "encoder.norm": draw.choice(["batch", None, "layer"]),
                    }
                )
                for _ in range(40)
            )
        )
    assert statistics.mean(best) > statistics.mean(by_chance) + 0.05


def test_the_seed_decides_the_points(tmp_path: Path) -> None:
    first, again, other = (
        explored(search(tmp_path / name, 15, seed=seed), accuracy) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert not [point for point in other if point in first]


def test_a_second_driver_goes_on_where_the_first_was(tmp_path: Path) -> None:
    undisturbed = explored(search(tmp_path / "whole"), accuracy)
    killed = tmp_path / "killed"
    explored(search(killed), accuracy, most=20)
    first = recorded(killed)
    for point in sweep(killed).points:
        run_dir = Store(killed).run(point.spec)
        with run_dir.acquire():
            run_dir.write_spec(point.spec)
            run_dir.complete(run_result({METRIC: accuracy(dict(point.values))}))
    assert first + explored(search(killed), accuracy) == undisturbed
    assert recorded(killed) == recorded(tmp_path / "whole") == undisturbed


def test_a_search_may_grow(tmp_path: Path) -> None:
    first = search(tmp_path, 4)
    points = [first.next() for _ in range(4)]
    assert first.next() is None
    grown = search(tmp_path, 5)
    assert [grown.next() for _ in range(4)] == points
    last = grown.next()
    assert last is not None
    assert last not in points
    assert grown.next() is None


@pytest.mark.parametrize("failure", [None, math.nan, math.inf])
def test_a_failed_point_is_not_handed_out_again_and_teaches_nothing(tmp_path: Path, failure: float | None) -> None:
    failing = search(tmp_path, 13)
    found = failing.next()
    assert found is not None
    failing.ended(found.spec.name, failure)
    assert found.values not in explored(failing, accuracy)


def test_a_small_space_is_used_up_without_repetition(tmp_path: Path) -> None:
    space = {"encoder.norm": ["batch", None], "projector.hidden": [[8], [16, 16]]}
    points = explored(search(tmp_path, space=space), lambda point: float(point["projector.hidden"] == [8]))
    assert len(points) == 4
    assert {json.dumps(point, sort_keys=True) for point in points} == {
        json.dumps({"encoder.norm": norm, "projector.hidden": hidden}, sort_keys=True)
        for norm in ("batch", None)
        for hidden in ([8], [16, 16])
    }


def test_each_point_is_a_draw_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that was drawn before and is drawn again until it is new."""
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    assert len(explored(search(tmp_path, 15), accuracy)) == 15


def test_points_that_run_at_the_same_time_do_not_crowd(tmp_path: Path) -> None:
    drawing = search(tmp_path, space={"student.alpha": {"uniform": [0, 1]}})
    explored(drawing, lambda point: -abs(point["student.alpha"] - 0.5), most=20)
    together = sorted(found.spec.student.alpha for found in (drawing.next() for _ in range(20)) if found)
    assert len(together) == 20
    gaps = [after - before for before, after in itertools.pairwise(together)]
    assert statistics.median(gaps) > 0.01  # 0.0035 where those under way are not looked at


@pytest.mark.parametrize("key", list(SPACE))
def test_points_are_told_to_optuna_as_it_drew_them(key: str) -> None:
    domain = searching().domains[key]
    for value in domain.corners:
        expected = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert module._from_optuna(domain, module._to_optuna(domain, value)) == expected


def test_points_of_another_space_are_refused(tmp_path: Path) -> None:
    search(tmp_path).next()
    search(tmp_path, 50, seed=3, mode="min")
    with pytest.raises(InputError, match="points of another space"):
        search(tmp_path, space={"student.alpha": [0.5, 1.0]})


def test_a_missing_optuna_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_optuna.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'rt-scale\[explore\]'"):
        search(tmp_path)
    monkeypatch.undo()
    assert search(tmp_path).next() is not None
