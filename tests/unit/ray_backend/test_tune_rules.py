"""Early stopping by Tune's rules, and sampling by the real Optuna; through a real Ray in tests/integration."""

from __future__ import annotations

import math
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import KnownData
from rt_scale.ray_backend.explore import EarlyStopping, Rule, build_rule
from rt_scale.scheduler.early_stopping import curve, report_for
from rt_scale.scheduler.preflight import check_on_data
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import SweepDir
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops
from tests.unit.scheduler.exploring import METRIC, SPACE, exploring, searching


def ruled(folder: Path, stop: dict[str, Any], mode: str = "max") -> tuple[Rule, EarlyStops]:
    explore = exploring(mode, stop=stop)
    stopped = EarlyStops(explore, SweepDir(folder))
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
    assert build_rule(searching(), EarlyStops(searching(), SweepDir(tmp_path))) is None


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
    assert str(ended["r1"]) == f"{next(iter(stop))} after 2 epochs: {METRIC} was {sign * 1.2:g}"


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
    ended = EarlyStop("asha", 20, 2.0, "ep", METRIC, 0.3)
    EarlyStops(exploring(stop=asha, **search), SweepDir(tmp_path)).record("a", ended)
    grown = {**search, "search": {"optuna": {"runs": 9}}}
    assert EarlyStops(exploring(stop=asha, **grown), SweepDir(tmp_path)).runs() == {"a": ended}
    others = [
        exploring(stop={"asha": {"grace": "3ep"}}),
        exploring("min", stop=asha),
        exploring(stop=asha).model_copy(update={"metric": "train/loss"}),
    ]
    for other in others:
        assert EarlyStops(other, SweepDir(tmp_path)).runs() == {}
    EarlyStops(others[0], SweepDir(tmp_path)).record("b", ended)
    assert EarlyStops(others[0], SweepDir(tmp_path)).runs() == {"b": ended}
    assert EarlyStops(exploring(stop=asha), SweepDir(tmp_path)).runs() == {}


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


def test_tune_can_pickle_the_scheduler_whatever_its_rules_lead_to() -> None:
    rules: Any = {"s": threading.Lock()}
    with pytest.raises(TypeError):
        pickle.dumps(rules)
    pickle.dumps(EarlyStopping(rules))
