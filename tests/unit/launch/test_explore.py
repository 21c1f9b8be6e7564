"""Early stopping by Tune's rules, and sampling by the real Optuna; through a real Ray in tests/integration."""

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
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from rt_scale.data.catalogue import DATASETS
from rt_scale.launch import sampler
from rt_scale.launch.explore import EarlyStopping, Rule, build_rule
from rt_scale.launch.explore_data import check_on_data
from rt_scale.launch.known_data import KnownData
from rt_scale.launch.sampler import Sampler, read_sampled, require_optuna
from rt_scale.launch.stopped import StoppedRun, StoppedRuns, curve, report_for
from rt_scale.spec.errors import InputError
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import SweepDir

METRIC = "probe/student/linear"
SPACE = {
    "student.alpha": {"loguniform": [1e-10, 1.0]},
    "projector.out_dim": {"pow2": [0, 16]},
    "train.optimizer.lr": {"uniform": [0.0, 1.0]},
    "encoder.norm": ["batch", None, "layer"],
}


def exploring(mode: str = "max", **fields: Any) -> ExploreSpec:
    return ExploreSpec.model_validate({"metric": METRIC, "mode": mode, **fields})


def searching(runs: int = 40, seed: int = 0, mode: str = "max", space: Any = SPACE) -> ExploreSpec:
    return exploring(mode, search={"optuna": {"runs": runs, "seed": seed}}, space=space)


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
    monkeypatch.setattr(sampler, "ATTEMPTS", 1)
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
        assert sampler._from_optuna(domain, sampler._to_optuna(domain, value)) == expected


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


def ruled(folder: Path, stop: dict[str, Any], mode: str = "max") -> tuple[Rule, StoppedRuns]:
    explore = exploring(mode, stop=stop)
    stopped = StoppedRuns(explore, SweepDir(folder))
    rule = build_rule(explore, stopped)
    assert rule is not None
    return rule, stopped


def tell(rule: Rule, run: str, time: float, value: float, last: bool = False) -> str:
    """A trial reports, as Tune flattens it; returns what Tune is told."""
    report = {"sweep": "s", "run": run, "step": int(time * 10), "last": last, "time": time, "value": value}
    flat = {f"explore/{key}": each for key, each in report.items()}
    return EarlyStopping({"other": None, "s": rule}).on_trial_result(None, object(), {"state": "running", **flat})


def test_the_rules_get_their_arguments(tmp_path: Path) -> None:
    asha = ruled(tmp_path, {"asha": {"grace": "3ep", "reduction": 2.5}}, "min")[0].scheduler
    assert isinstance(asha, AsyncHyperBandScheduler)
    assert [rung for rung, _ in asha._brackets[0]._rungs][-3:] == [3 * 2.5**2, 3 * 2.5, 3]
    assert (asha._metric_op, asha._time_attr, asha._stop_last_trials) == (-1.0, "time", False)
    median = ruled(tmp_path, {"median": {"grace": "30it", "min_runs": 4}})[0].scheduler
    assert isinstance(median, MedianStoppingRule)
    assert (median._grace_period, median._min_samples_required, median._mode) == (30, 4, "max")
    assert build_rule(searching(), StoppedRuns(searching(), SweepDir(tmp_path))) is None


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
@pytest.mark.parametrize(
    "stop", [{"asha": {"grace": "2ep", "reduction": 2}}, {"median": {"grace": "2ep", "min_runs": 2}}]
)
def test_the_worse_are_to_end_and_tune_lets_them_go_on(
    tmp_path: Path, stop: dict[str, Any], mode: str, sign: int
) -> None:
    rule, stopped = ruled(tmp_path, stop, mode)
    for time in (0.0, 1.0, 2.0, 3.0):
        for place in (3, 4, 1, 2):
            assert tell(rule, f"r{place}", time, sign * (place + time / 10)) == TrialScheduler.CONTINUE
    ended = stopped.runs()
    assert "r1" in ended
    assert not {"r4", "r3"} & set(ended)
    assert (ended["r1"].step, ended["r1"].value) == (20, pytest.approx(sign * 1.2))
    assert ended["r1"].reason == f"{next(iter(stop))} after 2 epochs: {METRIC} was {sign * 1.2:g}"


def test_none_ends_before_its_grace_or_at_its_end(tmp_path: Path) -> None:
    rule, stopped = ruled(tmp_path, {"asha": {"grace": "2ep", "reduction": 2}})
    for place in range(8, 0, -1):
        tell(rule, f"r{place}", 1.0, place)
        tell(rule, f"r{place}", 2.0, place, last=True)
    assert stopped.runs() == {}
    tell(rule, "r0", 2.0, 0.0)
    assert list(stopped.runs()) == ["r0"]


def test_the_median_wants_enough_others(tmp_path: Path) -> None:
    rule, stopped = ruled(tmp_path, {"median": {"grace": "2ep", "min_runs": 3}})
    for place in (9, 8, 1):
        tell(rule, f"r{place}", 2.0, place)
    assert stopped.runs() == {}
    tell(rule, "r2", 2.0, 2.0)
    assert list(stopped.runs()) == ["r2"]


def test_other_reports_and_ends_decide_nothing(tmp_path: Path) -> None:
    """The rules would compare what such a report does not hold."""
    rule, stopped = ruled(tmp_path, {"median": {"grace": "1ep", "min_runs": 1}})
    early = EarlyStopping({"s": rule})
    for run in ("a", "b"):
        assert early.on_trial_result(None, object(), {"state": "running", "step": 3}) == TrialScheduler.CONTINUE
        tell(rule, run, 1.0, 1.0)
        early.on_trial_complete(None, object(), {"state": "done"})
    assert stopped.runs() == {}
    tell(rule, "c", 1.0, 0.5)
    tell(rule, "c", 2.0, 0.4)  # it was not read in time
    assert stopped.runs()["c"].value == 0.5


def test_a_run_that_goes_on_from_a_checkpoint_is_the_same_run(tmp_path: Path) -> None:
    asha, stopped = ruled(tmp_path, {"asha": {"grace": "1ep", "reduction": 2}})
    median, _ = ruled(tmp_path, {"median": {"grace": "1ep"}})
    for _ in range(3):
        for time in (0.0, 1.0):
            tell(asha, "a", time, 0.5)
            tell(median, "a", time, 0.5)
    assert stopped.runs() == {}
    assert list(asha.scheduler._brackets[0]._rungs[-1][1]) == ["a"]
    assert [len(results) for results in median.scheduler._results.values()] == [2]


def test_a_second_driver_compares_with_runs_of_the_first(tmp_path: Path) -> None:
    rule = {"asha": {"grace": "2ep", "reduction": 2}}
    fresh, stopped = ruled(tmp_path, rule)
    tell(fresh, "new", 2.0, 0.1)
    assert stopped.runs() == {}
    for place in range(4):
        run = RunDir(tmp_path / f"r{place}")
        table = MetricsTable(run.metrics_path)
        for epoch in range(4):
            values = {METRIC: math.nan if epoch == 3 else place + 1.0, "train/loss": 0.0}
            table.append(epoch * 10, epoch, values)
        table.flush()
        read = curve(exploring(stop=rule), run)
        assert read == [(0.0, place + 1.0), (1.0, place + 1.0), (2.0, place + 1.0)]
        fresh.remember(run.name, read)
    assert stopped.runs() == {}
    tell(fresh, "newer", 2.0, 0.2)
    assert list(stopped.runs()) == ["newer"]
    assert curve(exploring(stop={"asha": {"grace": "2it"}}), RunDir(tmp_path / "r1"))[1] == (10.0, 2.0)
    assert curve(exploring(stop=rule), RunDir(tmp_path / "none")) == []


def test_ended_runs_count_under_their_rule_alone(tmp_path: Path) -> None:
    asha = {"asha": {"grace": "2ep"}}
    search = {"search": {"optuna": {"runs": 3}}, "space": SPACE}
    ended = StoppedRun(20, 0.3, "because")
    StoppedRuns(exploring(stop=asha, **search), SweepDir(tmp_path)).record("a", ended)
    grown = {**search, "search": {"optuna": {"runs": 9}}}
    assert StoppedRuns(exploring(stop=asha, **grown), SweepDir(tmp_path)).runs() == {"a": ended}
    others = [
        exploring(stop={"asha": {"grace": "3ep"}}),
        exploring("min", stop=asha),
        exploring(stop=asha).model_copy(update={"metric": "train/loss"}),
    ]
    for other in others:
        assert StoppedRuns(other, SweepDir(tmp_path)).runs() == {}
    StoppedRuns(others[0], SweepDir(tmp_path)).record("b", ended)
    assert StoppedRuns(others[0], SweepDir(tmp_path)).runs() == {"b": ended}
    assert StoppedRuns(exploring(stop=asha), SweepDir(tmp_path)).runs() == {}


@pytest.mark.parametrize(("grace", "time"), [("2ep", 1.5), ("2it", 30.0)])
def test_a_run_reports_what_was_measured(grace: str, time: float) -> None:
    explore = exploring(stop={"asha": {"grace": grace}})

    def report(values: dict[str, float], step: int = 30) -> dict[str, Any]:
        return report_for(explore, "s", "a", step=step, steps=40, epoch=1.5, values=values)

    said = {"sweep": "s", "run": "a", "step": 30, "last": False, "time": time, "value": 0.5}
    assert report({METRIC: 0.5, "probe/student/knn": 0.1}) == {"explore": said}
    assert report({METRIC: 0.5}, step=40)["explore"]["last"] is True
    assert report({"train/loss": 0.5}) == report({METRIC: math.nan}) == {}


@pytest.mark.parametrize(
    ("data", "metric", "grace", "words"),
    [
        ("cifar10", METRIC, "1ep", None),
        ("cifar10", METRIC, "389it", None),
        ("cifar10", METRIC, "390it", "but a run lasts 390it"),
        ("my_own", METRIC, "390it", None),
        ("stl10_unlabeled", METRIC, "1ep", "stl10_unlabeled has no labels"),
        ("stl10_unlabeled", "probe@cifar10/student/linear", "1ep", None),
    ],
)
def test_what_only_the_data_tell(data: str, metric: str, grace: str, words: str | None) -> None:
    spec = RunSpec.model_validate(
        {
            "data": {"name": data, "samples": 19_850},
            "encoder": {"name": "vgg11"},
            "train": {"epochs": 2, "batch_size": 102},
            "probe": {"every": f"1{grace[-2:]}", "also": ["cifar10"]},
        }
    )
    explore = exploring(stop={"asha": {"grace": grace}}).model_copy(update={"metric": metric})
    if words is None:
        check_on_data(explore, [spec], KnownData(dict(DATASETS)))
        return
    with pytest.raises(InputError, match=words):
        check_on_data(explore, [spec], KnownData(dict(DATASETS)))
