"""What explore sections add to a queue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import explore as module
from rt_scale.ray_backend.explore import Exploration
from rt_scale.scheduler.job import Job, JobOutcome, JobState
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.grid import Point, expand, points_at
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import EarlyStop, SweepRuns
from tests.records import run_result
from tests.unit.scheduler.test_queue import Room, Told

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "probe": {"every": "5ep"}}
METRIC = {"metric": "probe/student/linear", "mode": "max"}
PLAIN = SweepSpec(name="plain", base=BASE)
RULED = SweepSpec.model_validate(
    {"name": "ruled", "base": BASE, "axes": {"student.alpha": [0.1, 0.2]},
     "explore": {**METRIC, "stop": {"median": {"grace": "5ep", "min_runs": 1}}}}
)  # fmt: skip
SEARCHED = SweepSpec.model_validate(
    {"name": "searched", "base": BASE, "launch": {"cpus": 2},
     "explore": {**METRIC, "search": {"optuna": {"runs": 9}}, "space": {"student.alpha": {"uniform": [0, 1]}}}}
)  # fmt: skip


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
    exploration = Exploration(sweeps, {"gone": "why"}, room)
    view = Told()
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
        (one, JobOutcome(JobState.DONE, values={METRIC["metric"]: 0.5})),
        (two, JobOutcome(JobState.DIED, "gone")),
    ):
        queue.ended(task.spec.name, how)
        exploration.ended(task, how)
    exploration.ended(first, JobOutcome(JobState.DONE, values={METRIC["metric"]: 0.9}))
    assert heard == [(one.spec.name, 0.5)]
    assert queue.take() == [two]
    exploration.refill(queue)
    (third,) = queue.take()
    exploration.ended(third, JobOutcome(JobState.FAILED, "bad", {METRIC["metric"]: 0.7}))
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
        {"name": "finite", "base": BASE, "explore": {**METRIC, "search": {"optuna": {"runs": 50}}, "space": space}}
    )  # fmt: skip
    sweep = SweepRuns(spec, [], store)
    assert sweep.to_sample == 6
    elsewhere = points_at(spec, [{"encoder.norm": None, "student.alpha": 0.2}])[0]
    complete(store, elsewhere, {METRIC["metric"]: 0.9})
    view = Told()
    queue = Queue([], StoredRuns(store), view, Room())
    exploration = Exploration([sweep], {}, lambda launch: 1, view.added)
    for _ in range(7):
        exploration.refill(queue)
        for task in queue.take():
            complete(store, next(point for point in sweep.points if point.spec == task.spec), {})
            how = JobOutcome(JobState.DONE, values={METRIC["metric"]: 0.5})
            queue.ended(task.spec.name, how)
            exploration.ended(task, how)
    assert queue.finished
    assert 6 + view.more == len(view.ends) == 3
    assert sweep.to_sample == 0
    assert exploration._searches["finite"][1]._ended[elsewhere.spec.name] == 0.9


def test_a_rule_tells_the_run_that_it_ends_and_knows_those_of_before(
    tmp_path: Path, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, points = Store(tmp_path), expand(RULED)
    curves = {points[0].spec.name: [(5.0, 0.9), (10.0, 0.95)]}
    monkeypatch.setattr(module, "curve", lambda explore, run_dir: curves.get(run_dir.name, []))
    ruled = SweepRuns(RULED, points, store)
    exploration = Exploration([ruled], (), lambda launch: 1)
    told: list[tuple[str, str]] = []
    exploration.tell = lambda name, reason: told.append((name, reason))
    name = points[1].spec.name
    result = {"explore/sweep": "ruled", "explore/run": name, "explore/step": 50, "explore/last": False}
    exploration.scheduler().on_trial_result(None, None, {**result, "explore/time": 10.0, "explore/value": 0.1})
    ((ended, why),) = told
    assert (ended, why.startswith("median after 10 epochs")) == (name, True)
    stop = EarlyStop("median", 50, 10.0, "ep", METRIC["metric"], 0.1)
    assert (ruled.early_stopped, str(stop)) == ({name: stop}, why)
