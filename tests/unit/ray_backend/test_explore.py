"""Early stopping by Tune's rules, and sampling by the real Optuna; through a real Ray in tests/integration."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import KnownData
from rt_scale.ray_backend import explore as module
from rt_scale.ray_backend.explore import Exploration, Rule
from rt_scale.ray_backend.trial import Measurement
from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.preflight import check_on_data
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point, expand, points_at
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store, SweepDir
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops, SweepRuns
from tests.records import run_result
from tests.unit.scheduler.exploring import METRIC, SPACE, exploring
from tests.unit.scheduler.test_queue import Room, Told


def ruled(folder: Path, stop: dict[str, Any], mode: str = "max") -> tuple[Rule, EarlyStops]:
    explore = exploring(mode, stop=stop)
    stopped = EarlyStops(explore, SweepDir(folder))
    return Rule(explore, stopped, lambda run, why: None), stopped


def tell(rule: Rule, run: str, epoch: float, value: float, last: bool = False) -> None:
    """A trial reports after so many epochs of ten steps."""
    rule.hear(Measurement("s", run, int(epoch * 10), epoch, last, value))


def test_the_rules_get_their_arguments(tmp_path: Path) -> None:
    asha = ruled(tmp_path, {"asha": {"grace": "3ep", "reduction": 2.5}}, "min")[0].scheduler
    assert isinstance(asha, AsyncHyperBandScheduler)
    assert [rung for rung, _ in asha._brackets[0]._rungs][-3:] == [3 * 2.5**2, 3 * 2.5, 3]
    assert (asha._metric_op, asha._time_attr, asha._stop_last_trials) == (-1.0, "time", False)
    median = ruled(tmp_path, {"median": {"grace": "30it", "min_runs": 4}})[0].scheduler
    assert isinstance(median, MedianStoppingRule)
    assert (median._grace_period, median._min_samples_required, median._mode) == (30, 4, "max")


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
@pytest.mark.parametrize(
    "stop", [{"asha": {"grace": "2ep", "reduction": 2}}, {"median": {"grace": "2ep", "min_runs": 2}}]
)
def test_the_worse_are_to_end(tmp_path: Path, stop: dict[str, Any], mode: str, sign: int) -> None:
    rule, stopped = ruled(tmp_path, stop, mode)
    for time in (0.0, 1.0, 2.0, 3.0):
        for place in (3, 4, 1, 2):
            tell(rule, f"r{place}", time, sign * (place + time / 10))
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


def test_a_run_is_ended_once(tmp_path: Path) -> None:
    rule, stopped = ruled(tmp_path, {"median": {"grace": "1ep", "min_runs": 1}})
    for run in ("a", "b"):
        tell(rule, run, 1.0, 1.0)
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
        fresh.remember(run)
        assert fresh._latest[run.name] == 2.0  # the last value is not finite
    assert stopped.runs() == {}
    tell(fresh, "newer", 2.0, 0.2)
    assert list(stopped.runs()) == ["newer"]
    fresh.remember(RunDir(tmp_path / "none"))
    by_step, _ = ruled(tmp_path, {"asha": {"grace": "2it"}})
    by_step.remember(RunDir(tmp_path / "r1"))
    assert by_step._latest == {"r1": 20.0}


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


BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "probe": {"every": "5ep"}}
BY = {"metric": METRIC, "mode": "max"}
PLAIN = SweepSpec(name="plain", base=BASE)
RULED = SweepSpec.model_validate(
    {"name": "ruled", "base": BASE, "axes": {"student.alpha": [0.1, 0.2]},
     "explore": {**BY, "stop": {"median": {"grace": "5ep", "min_runs": 1}}}}
)  # fmt: skip
SEARCHED = SweepSpec.model_validate(
    {"name": "searched", "base": BASE, "launch": {"cpus": 2},
     "explore": {**BY, "search": {"optuna": {"runs": 9}}, "space": {"student.alpha": {"uniform": [0, 1]}}}}
)  # fmt: skip


def never(name: str, reason: str) -> None:
    raise AssertionError(name)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float | None]]:
    """What a search of three points is told."""
    told: list[tuple[str, float | None]] = []

    class Three:
        def __init__(self, sweep: SweepRuns, failed: Any) -> None:
            self._points = points_at(sweep.spec, [{"student.alpha": alpha} for alpha in (0.1, 0.2, 0.3)])
            assert failed == {"gone": "why"}

        @property
        def left(self) -> int:
            return len(self._points)

        def next(self) -> Point | None:
            return self._points.pop(0) if self._points else None

        def ended(self, name: str, value: float | None) -> None:
            told.append((name, value))

    monkeypatch.setattr(module, "Search", Three)
    return told


def test_points_are_sampled_as_slots_become_free(tmp_path: Path, heard: list[Any]) -> None:
    store, rooms = Store(tmp_path), list[LaunchSpec]()

    def room(launch: LaunchSpec) -> int:
        rooms.append(launch)
        return 2

    sweeps = [SweepRuns(PLAIN, expand(PLAIN), store), SweepRuns(SEARCHED, [], store)]
    view = Told()
    exploration = Exploration(sweeps, {"gone": "why"}, room, added=view.added, tell=never)
    queue = Queue([Job("plain", expand(PLAIN)[0].spec, LaunchSpec())], StoredRuns(store), view, Room())
    exploration.refill(queue)
    (first,) = queue.take()
    assert (first.label, queue.take()) == ("plain", [])  # nothing is sampled while something is ready
    taken = []
    for _ in range(3):
        exploration.refill(queue)
        taken += [job.label for job in queue.take()]
    assert taken == ["searched: alpha=0.1,seed=0", "searched: alpha=0.2,seed=0"]
    assert set(rooms) == {LaunchSpec(cpus=2)}
    one, two = [task for task in queue.live.values() if task.sweep == SEARCHED]
    for task, how in (
        (one, JobOutcome(JobState.DONE, values={METRIC: 0.5})),
        (two, JobOutcome(JobState.DIED, "gone")),
    ):
        queue.ended(task.spec.name, how)
        exploration.ended(task, how)
    exploration.ended(first, JobOutcome(JobState.DONE, values={METRIC: 0.9}))
    assert heard == [(one.spec.name, 0.5)]
    assert queue.take() == [two]
    exploration.refill(queue)
    (third,) = queue.take()
    exploration.ended(third, JobOutcome(JobState.FAILED, "bad", {METRIC: 0.7}))
    assert heard[1:] == [(third.spec.name, None)]
    exploration.refill(queue)
    assert queue.take() == []


def complete(store: Store, point: Point, values: dict[str, float]) -> None:
    run_dir = store.run(point.spec)
    with run_dir.acquire():
        run_dir.write_spec(point.spec)
        run_dir.complete(run_result(values))


def test_the_count_of_runs_follows_what_a_search_comes_to(tmp_path: Path) -> None:
    """Five points of a space of six, of which two are one run, and one was computed for another sweep."""
    store = Store(tmp_path)
    space = {"encoder.norm": [None, "none"], "student.alpha": [0.1, 0.2, 0.3]}
    spec = SweepSpec.model_validate(
        {"name": "finite", "base": BASE, "explore": {**BY, "search": {"optuna": {"runs": 50}}, "space": space}}
    )  # fmt: skip
    sweep = SweepRuns(spec, [], store)
    assert sweep.to_sample == 6
    elsewhere = points_at(spec, [{"encoder.norm": None, "student.alpha": 0.2}])[0]
    complete(store, elsewhere, {METRIC: 0.9})
    view = Told()
    queue = Queue([], StoredRuns(store), view, Room())
    exploration = Exploration([sweep], {}, lambda launch: 1, added=view.added, tell=never)
    for _ in range(7):
        exploration.refill(queue)
        for task in queue.take():
            complete(store, next(point for point in sweep.points if point.spec == task.spec), {})
            how = JobOutcome(JobState.DONE, values={METRIC: 0.5})
            queue.ended(task.spec.name, how)
            exploration.ended(task, how)
    assert queue.finished
    assert 6 + view.more == len(view.ends) == 3
    assert sweep.to_sample == 0
    assert exploration._searches["finite"][2]._ended[elsewhere.spec.name] == 0.9


def test_a_rule_tells_the_run_that_it_ends_and_knows_those_of_before(
    tmp_path: Path, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, points = Store(tmp_path), expand(RULED)
    table = MetricsTable(store.run(points[0].spec).metrics_path)
    for epoch, value in ((5, 0.9), (10, 0.95)):
        table.append(epoch * 5, epoch, {METRIC: value})
    table.flush()
    sweep = SweepRuns(RULED, points, store)
    told: list[tuple[str, str]] = []
    exploration = Exploration([sweep], (), lambda launch: 1, added=len, tell=lambda *given: told.append(given))
    name = points[1].spec.name
    exploration.hear(Measurement("ruled", name, 50, 10.0, False, 0.1))
    ((ended, why),) = told
    assert (ended, why.startswith("median after 10 epochs")) == (name, True)
    stop = EarlyStop("median", 50, 10.0, "ep", METRIC, 0.1)
    assert (sweep.early_stopped, str(stop)) == ({name: stop}, why)
