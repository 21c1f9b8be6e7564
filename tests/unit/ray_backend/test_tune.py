"""What is handed to Ray Tune and heard from it; real trials are in tests/integration/test_sweep.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from rt_scale.ray_backend import tune
from rt_scale.ray_backend.trial import Place, trial_config
from rt_scale.ray_backend.tune import _AllStopped, _Follower, _Handout, _Pulse
from rt_scale.scheduler.job import Job
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.system.signals import NOTICE
from tests.unit.scheduler.test_queue import Room, Told


class News:
    """A control with one piece of news."""

    def __init__(self, news: dict[str, Any]) -> None:
        self._news, self.stops = news, list[str]()

    def news(self) -> dict[str, Any]:
        news, self._news = self._news, {}
        return news

    def stop(self, why: str) -> None:
        self.stops.append(why)


class View(Told):
    """One that runs report to, too."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, Any]] = []
        self.texts: list[str] = []
        self.ticks = 0

    def running(self, label: str, report: Any) -> None:
        self.shown.append((label, report))

    def tick(self) -> None:
        self.ticks += 1

    def said(self, text: str) -> None:
        self.texts.append(text)


def spec(seed: int) -> RunSpec:
    document = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "seeds": {"student": seed}}
    return RunSpec.model_validate(document)


def trial(name: str, status: str = "RUNNING") -> Any:
    return type("Trial", (), {"trial_id": name, "status": status})()


class Plain:
    """Plain grids, which explore nothing."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def refill(self, queue: Queue) -> None: ...

    def ended(self, task: Job, how: Any) -> None:
        self.heard.append((task.label, how.state))


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def queue(tmp_path: Path, view: View) -> Queue:
    tasks = [Job(f"run {seed}", spec(seed), LaunchSpec(retries=0)) for seed in range(3)]
    return Queue(tasks, StoredRuns(Store(tmp_path)), view, Room(), concurrency=2)


def test_the_queue_is_handed_out_and_hears_how_runs_ended(
    queue: Queue, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "PULSE", 0.0)
    report = {"began": 0, "step": 3, "warnings": ["hot", "dry"], "values": {}}
    control = News({})
    pulse = _Pulse(control, queue, view, lambda: False)
    plain = Plain()
    follower = _Follower(queue, pulse, plain)  # type: ignore[arg-type]
    handout = _Handout(follower, lambda tasks: {"label": tasks[0].label})
    assert handout.set_search_properties(None, None, {})
    assert handout.suggest("a") == {"run": {"label": "run 0"}}
    control._news = {spec(0).name: report, "unknown": report}
    assert [handout.suggest(name) for name in "bc"] == [{"run": {"label": "run 1"}}, None]
    assert view.shown == [("run 0", {**report, "warning": "hot dry"})]
    assert view.ticks == 3
    follower.on_trial_result(1, [], trial("a"), {"state": "running", "explore/value": 1.0})
    follower.on_trial_result(1, [], trial("a"), {"state": "done", "why": "", "values": {"x": 1.0}})
    assert handout.suggest("c") == {"run": {"label": "run 2"}}
    follower.on_trial_error(1, [], trial("a"))  # it had ended
    follower.on_trial_error(1, [], trial("b"))
    follower.on_trial_result(1, [], trial("c"), {"state": "failed", "why": "bad", "values": {}})
    assert view.ends == [
        ("run 0", None), ("run 1", "its process died, 1 times in a row without a new checkpoint."), ("run 2", "bad"),
    ]  # fmt: skip
    assert plain.heard == [("run 0", "done"), ("run 1", "died"), ("run 2", "failed")]
    assert handout.suggest("d") == Searcher.FINISHED
    assert follower.__getstate__() == _AllStopped(follower).__getstate__() == {}


def test_asked_to_stop_it_tells_the_control_actor_once_and_ends_when_nothing_runs(
    queue: Queue, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "PULSE", 0.0)
    asked: list[bool] = []
    control = News({})
    pulse = _Pulse(control, queue, view, lambda: bool(asked))  # type: ignore[arg-type]
    follower = _Follower(queue, pulse, Plain())  # type: ignore[arg-type]
    handout, stopper = _Handout(follower, lambda tasks: {}), _AllStopped(follower)
    handout.suggest("a")
    follower.on_step_begin(1, [trial("a")])
    assert not stopper.stop_all()
    assert not stopper("a", {})
    asked.append(True)
    stops_first: list[int] = []  # before anything is said, which may take time
    monkeypatch.setattr(view, "said", lambda text: (stops_first.append(len(control.stops)), view.texts.append(text)))
    for _ in range(2):
        follower.on_step_begin(1, [trial("a"), trial("b", "PENDING")])
        assert not stopper.stop_all()
    assert handout.suggest("c") == Searcher.FINISHED
    assert (control.stops, view.texts) == (["the sweep was asked to stop"], [NOTICE])
    assert stops_first == [1]
    follower.on_step_begin(1, [trial("a", "TERMINATED"), trial("b", "PENDING")])
    assert stopper.stop_all()


def test_news_are_looked_at_now_and_then(queue: Queue, view: View) -> None:
    pulse = _Pulse(News({}), queue, view, lambda: False)
    for _ in range(3):
        pulse()
    assert view.ticks == 1


class Cluster:
    local = False

    def trial_resources(self, launch: LaunchSpec) -> dict[str, float]:
        return {"CPU": float(launch.cpus)}


def test_a_trial_is_told_everything_in_plain_values(tmp_path: Path) -> None:
    launch = LaunchSpec(cpus=2, loader="map")
    place = Place("s3://bucket/store", tmp_path, "cuda")
    config = trial_config([Job("a", spec(1), launch)], None, place, Cluster())  # type: ignore[arg-type]
    assert RunSpec.model_validate(config["spec"]) == spec(1)
    assert LaunchSpec.model_validate(config["launch"]) == launch
    assert {key: config[key] for key in ("store", "data_dir", "device", "local", "bundle")} == {
        "store": "s3://bucket/store", "data_dir": str(tmp_path), "device": "cuda", "local": False, "bundle": {"CPU": 2},
    }  # fmt: skip
    assert config["judged"] is None
    section = {"metric": "probe/student/linear", "mode": "max", "stop": {"asha": {"grace": "5ep"}}}
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "probe": {"every": "5ep"}}
    sweep = SweepSpec.model_validate({"name": "s", "base": base, "explore": section})
    judged = trial_config([Job("a", spec(1), launch, sweep)], None, place, Cluster())["judged"]  # type: ignore[arg-type]
    assert (judged["sweep"], ExploreSpec.model_validate(judged["explore"])) == ("s", sweep.explore)
    assert tune._resources({"run": config}).bundles == [{"CPU": 2}]
    assert tune._resources({}).bundles == [{"CPU": 1}]


def test_a_pack_is_handed_out_whole_and_each_of_its_runs_ends_by_itself(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "PULSE", 0.0)
    launch = LaunchSpec(pack="auto", retries=0)
    jobs = [Job(f"run {seed}", spec(seed), launch) for seed in range(5)]
    queue = Queue(jobs, StoredRuns(Store(tmp_path)), view, Room())
    plain = Plain()
    follower = _Follower(queue, _Pulse(News({}), queue, view, lambda: False), plain)  # type: ignore[arg-type]
    handout = _Handout(follower, lambda tasks: {"labels": [task.label for task in tasks]})
    assert handout.suggest("a") == {"run": {"labels": [f"run {seed}" for seed in range(5)]}}
    spare = {spec(seed).name: {"state": "returned", "why": "", "values": {}} for seed in (3, 4)}
    measured = {"size": 3, "reason": "faster", "seconds": {"1": 1.0}}
    follower.on_trial_result(1, [], trial("a"), {"state": "running", "runs": spare, "packing": measured})
    assert handout.suggest("b") == {"run": {"labels": ["run 3", "run 4"]}}
    assert queue.batching.known(Job("new", spec(9), launch)) == measured
    done = {spec(1).name: {"state": "done", "why": "", "values": {"x": 1.0}}}
    follower.on_trial_result(2, [], trial("a"), {"state": "running", "runs": done})
    assert view.ends == [("run 1", None)]
    follower.on_trial_error(2, [], trial("a"))
    assert [label for label, _ in view.ends] == ["run 1", "run 0", "run 2"]
    last = {spec(seed).name: {"state": "done", "why": "", "values": {}} for seed in (3, 4)}
    follower.on_trial_result(1, [], trial("b"), {"state": "running", "runs": last})
    follower.on_trial_result(2, [], trial("b"), {"state": "packed"})
    assert handout.suggest("c") == Searcher.FINISHED
    assert plain.heard[-2:] == [("run 3", "done"), ("run 4", "done")]


def test_a_pack_is_told_all_its_specs_and_what_was_measured(tmp_path: Path) -> None:
    place, packed = Place("store", tmp_path, "cpu"), LaunchSpec(pack=2)
    tasks = [Job(f"run {seed}", spec(seed), packed) for seed in range(2)]
    config = trial_config(tasks, {"size": 2}, place, Cluster())  # type: ignore[arg-type]
    assert [RunSpec.model_validate(each) for each in config["specs"]] == [spec(0), spec(1)]
    assert config["packing"] == {"size": 2}
    alone = trial_config([Job("a", spec(0), LaunchSpec())], None, place, Cluster())  # type: ignore[arg-type]
    assert "specs" not in alone
