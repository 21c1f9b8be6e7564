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

from rt_scale.scheduler import search
from rt_scale.scheduler.search import Sampler, require_optuna
from rt_scale.spec.errors import InputError
from rt_scale.store.store import SweepDir
from rt_scale.store.sweep_runs import read_sampled
from tests.unit.scheduler.exploring import SPACE, searching


def accuracy(values: dict[str, Any]) -> float:
    """Best, 0, at alpha = 1e-4, 4096 outputs, lr = 0.5 with batch norm."""
    return -(
        (math.log10(values["student.alpha"]) + 4) ** 2 / 16
        + (math.log2(values["projector.out_dim"]) - 12) ** 2 / 32
        + 2 * (values["train.optimizer.lr"] - 0.5) ** 2
        + (values["encoder.norm"] != "batch")
    )


def explored(source: Sampler, objective: Callable[[dict[str, Any]], float], most: int = 1000) -> list[Any]:
    """The next points, each told the value of the objective."""
    points = []
    while len(points) < most and (found := source.suggest()) is not None:
        points.append(found[1])
        source.observed(found[0], objective(found[1]))
    return points


def test_points_come_from_the_space(tmp_path: Path) -> None:
    explore = searching(runs=30)
    points = explored(Sampler(explore, SweepDir(tmp_path)), accuracy)
    assert len(points) == 30
    for key, domain in explore.domains.items():
        assert all(point[key] in domain for point in points)
    assert {point["encoder.norm"] for point in points} == {"batch", None, "layer"}
    assert sum(point["student.alpha"] < 1e-5 for point in points) >= 5
    assert all(point["student.alpha"] == float(f"{point['student.alpha']:g}") for point in points)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_it_finds_the_optimum_better_than_chance(tmp_path: Path, mode: str) -> None:
    sign = 1 if mode == "max" else -1
    best, by_chance = [], []
    for seed in range(5):
        points = explored(
            Sampler(searching(seed=seed, mode=mode), SweepDir(tmp_path / str(seed))),
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
        explored(Sampler(searching(runs=15, seed=seed), SweepDir(tmp_path / name)), accuracy)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert not [point for point in other if point in first]


def test_a_second_driver_goes_on_where_the_first_was(tmp_path: Path) -> None:
    undisturbed = explored(Sampler(searching(), SweepDir(tmp_path / "whole")), accuracy)
    folder = tmp_path / "killed"
    explored(Sampler(searching(), SweepDir(folder)), accuracy, most=20)
    recorded = read_sampled(SweepDir(folder))
    second = Sampler(searching(), SweepDir(folder))
    for point in recorded:
        second.known(point, accuracy(point))
    assert recorded + explored(second, accuracy) == undisturbed
    assert read_sampled(SweepDir(folder)) == undisturbed
    assert read_sampled(SweepDir(tmp_path / "whole")) == undisturbed


def test_unfinished_points_are_handed_out_again_first_and_each_once(tmp_path: Path) -> None:
    first = Sampler(searching(runs=4), SweepDir(tmp_path))
    points = [first.suggest() for _ in range(3)]
    assert len({str(point) for point in points}) == 3
    second = Sampler(searching(runs=4), SweepDir(tmp_path))
    assert points[1] is not None
    second.known(points[1][1], 0.5)
    assert [second.suggest(), second.suggest()] == [points[0], points[2]]
    last = second.suggest()
    assert last is not None
    assert last not in points
    assert second.suggest() is None
    grown = Sampler(searching(runs=5), SweepDir(tmp_path))
    assert [(grown.suggest() or ("",))[0] for _ in range(6)] == ["0", "1", "2", "3", "4", ""]
    with pytest.raises(ValueError, match="not in list"):
        grown.known({**points[1][1], "student.alpha": 0.123}, 1.0)


@pytest.mark.parametrize("failure", [None, math.nan, math.inf])
def test_a_failed_point_is_not_handed_out_again_and_teaches_nothing(tmp_path: Path, failure: float | None) -> None:
    failing = Sampler(searching(runs=13), SweepDir(tmp_path))
    found = failing.suggest()
    assert found is not None
    failing.observed(found[0], failure)
    assert found[1] not in explored(failing, accuracy)


def test_a_small_space_is_used_up_without_repetition(tmp_path: Path) -> None:
    space = {"encoder.norm": ["batch", None], "projector.hidden": [[8], [16, 16]]}
    points = explored(
        Sampler(searching(space=space), SweepDir(tmp_path)), lambda point: float(point["projector.hidden"] == [8])
    )
    assert len(points) == 4
    assert {json.dumps(point, sort_keys=True) for point in points} == {
        json.dumps({"encoder.norm": norm, "projector.hidden": hidden}, sort_keys=True)
        for norm in ("batch", None)
        for hidden in ([8], [16, 16])
    }


def test_each_point_is_a_draw_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that was drawn before and is drawn again until it is new."""
    monkeypatch.setattr(search, "ATTEMPTS", 1)
    assert len(explored(Sampler(searching(runs=15), SweepDir(tmp_path)), accuracy)) == 15


def test_points_that_run_at_the_same_time_do_not_crowd(tmp_path: Path) -> None:
    drawing = Sampler(searching(space={"student.alpha": {"uniform": [0, 1]}}), SweepDir(tmp_path))
    explored(drawing, lambda point: -abs(point["student.alpha"] - 0.5), most=20)
    together = sorted(found[1]["student.alpha"] for found in (drawing.suggest() for _ in range(20)) if found)
    assert len(together) == 20
    gaps = [after - before for before, after in itertools.pairwise(together)]
    assert statistics.median(gaps) > 0.01  # 0.0035 where those under way are not looked at


@pytest.mark.parametrize("key", list(SPACE))
def test_points_are_told_to_optuna_as_it_drew_them(key: str) -> None:
    domain = searching().domains[key]
    for value in domain.corners:
        expected = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
        assert search._from_optuna(domain, search._to_optuna(domain, value)) == expected


def test_points_of_another_space_are_refused(tmp_path: Path) -> None:
    Sampler(searching(), SweepDir(tmp_path)).suggest()
    Sampler(searching(runs=50, seed=3, mode="min"), SweepDir(tmp_path))
    with pytest.raises(InputError, match="points of another space"):
        Sampler(searching(space={"student.alpha": [0.5, 1.0]}), SweepDir(tmp_path))


def test_a_missing_optuna_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_optuna.cache_clear()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'rt-scale\[explore\]'"):
        Sampler(searching(), SweepDir(tmp_path))
    monkeypatch.undo()
    assert Sampler(searching(), SweepDir(tmp_path)).suggest() is not None
