"""What is handed to Ray Tune and heard from it; real trials are in tests/integration/test_sweep.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune.experiment.trial import Trial
from ray.tune.search import Searcher

from rt_scale.ray_backend import tune
from rt_scale.ray_backend.trial import JudgedBy, Measurement, TrialConfig, TrialReport
from rt_scale.ray_backend.tune import _AllStopped, _Driver, _Handout, _Handouts
from rt_scale.scheduler.job import Job, JobOutcome, JobState, RunReport, Where
from rt_scale.scheduler.queue import Queue, StoredRuns
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store import lease
from rt_scale.store.lease import Process
from rt_scale.store.results import BatchSize
from rt_scale.store.store import Preemptions, Store
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

    def process(self, run: str) -> Process | None:
        return Process("far", 7, 1) if run == spec(1).name else None


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
    temporary = type("State", (), {"ray_actor": f"actor of {name}"})
    return type("Trial", (), {"trial_id": name, "status": status, "temporary_state": temporary})()


@pytest.fixture(autouse=True)
def lost(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Lost nodes, by the actors that were on them."""
    found: dict[str, str] = {}
    monkeypatch.setattr(tune, "node_of", lambda actor: actor)
    monkeypatch.setattr(tune, "address_of", lambda node: f"address of {node}")
    monkeypatch.setattr(tune, "lost_node", lambda node: found.get(node, ""))
    return found


def outcomes(measured: BatchSize | None = None, **found: JobOutcome) -> dict[str, Any]:
    """What Tune hands on of a trial that reports outcomes, by the seed of their run (``_1``)."""
    by_name = {spec(int(seed[1:])).name: outcome for seed, outcome in found.items()}
    return {"report": TrialReport(outcomes=by_name, measured_size=measured).model_dump_json()}


class Plain:
    """Plain grids, which explore nothing."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.judged: list[Measurement] = []

    def refill(self, queue: Queue) -> None: ...

    def hear(self, found: Measurement) -> None:
        self.judged.append(found)

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
    monkeypatch.setattr(tune, "NEWS_S", 0.0)
    report = RunReport(began=0, step=3, warnings=("hot", "dry"))
    control, plain = News({}), Plain()
    driver = _Driver(queue, control, view, plain, lambda: False, lambda *_: None)  # type: ignore[arg-type]
    handout = _Handout(driver, lambda jobs: {"label": jobs[0].label})
    assert handout.set_search_properties(None, None, {})
    assert handout.suggest("a") == {"label": "run 0"}
    control._news = {spec(0).name: report, "unknown": report}
    assert [handout.suggest(name) for name in "bc"] == [{"label": "run 1"}, None]
    assert view.shown == [("run 0", report)]
    assert view.ticks == 3
    found = Measurement("s", spec(0).name, 3, 0.5, False, 0.1)
    driver.on_trial_result(1, [], trial("a"), {"report": TrialReport(measured=found).model_dump_json()})
    assert plain.judged == [found]
    driver.on_trial_result(1, [], trial("a"), outcomes(_0=JobOutcome(JobState.DONE, values={"x": 1.0})))
    assert handout.suggest("c") is None  # its process is still taken
    driver.on_trial_complete(1, [], trial("a"))
    assert handout.suggest("c") == {"label": "run 2"}
    driver.on_trial_error(1, [], trial("a"))  # it had ended
    driver.on_trial_error(1, [], trial("b"))
    driver.on_trial_result(1, [], trial("c"), outcomes(_2=JobOutcome(JobState.FAILED, "bad")))
    driver.on_trial_error(1, [], trial("c"))  # its process died when it had told
    assert view.ends == [
        ("run 0", None), ("run 1", "its process died, 1 times in a row without a new checkpoint."), ("run 2", "bad"),
    ]  # fmt: skip
    assert plain.heard == [("run 0", JobState.DONE), ("run 1", JobState.DIED), ("run 2", JobState.FAILED)]
    assert handout.suggest("d") == Searcher.FINISHED
    for each in (driver, handout, _AllStopped(driver)):  # whose view leads to a stream
        assert cloudpickle.loads(cloudpickle.dumps(each)).__dict__ == {}


def test_no_idle_process_is_kept_while_no_run_could_start(queue: Queue, view: View) -> None:
    plain = Plain()
    handout = _Handout(_Driver(queue, News({}), view, plain, lambda: False, print), lambda jobs: {})  # type: ignore[arg-type]
    search = _Handouts(handout)
    search._total_samples = 10**9
    assert not search.is_finished()
    handout.suggest("a")
    handout.suggest("b")
    assert not search.is_finished()  # run 2 waits for their processes
    queue.ended(spec(0).name, JobOutcome(JobState.DONE))
    handout.suggest("c")
    assert search.is_finished()
    queue.ended(spec(1).name, JobOutcome(JobState.RETURNED))
    assert not search.is_finished()
    queue.take()
    queue.ended(spec(1).name, JobOutcome(JobState.LEASED_ELSEWHERE, "it is executed elsewhere"))
    assert search.is_finished()
    assert not queue.finished


def test_a_process_that_was_lost_with_its_node_was_preempted(queue: Queue, view: View, lost: dict[str, str]) -> None:
    told: list[tuple[str, str]] = []
    driver = _Driver(
        queue,
        News({}),
        view,
        Plain(),
        lambda: False,
        lambda job, why: told.append((job.label, why)),  # type: ignore[arg-type]
    )
    handout = _Handout(driver, lambda jobs: {"label": jobs[0].label})
    lost["actor of b"] = "its node 10.0.0.3 was lost"
    for name in "ab":
        handout.suggest(name)
        driver.on_trial_start(1, [], trial(name))
    for name in "ab":
        driver.on_trial_error(1, [], trial(name))
    assert view.ends == [("run 0", "its process died, 1 times in a row without a new checkpoint.")]
    assert view.preemptions == [("run 1", "its node 10.0.0.3 was lost", None)]
    assert told == [("run 1", "its node 10.0.0.3 was lost")]
    assert driver.lost == {spec(1).name: Process("far", 7, 1)}
    assert lease._lost == set(driver.lost.values())


DEVICE = JobOutcome(JobState.DEVICE_LOST, "CUDA says: uncorrectable ECC error encountered")


def test_a_gpu_that_failed_is_put_aside_and_its_run_goes_on_elsewhere(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "NEWS_S", 0.0)
    launch = LaunchSpec(gpus=1, retries=0)
    queue = Queue([Job(f"run {n}", spec(n), launch) for n in range(2)], StoredRuns(Store(tmp_path)), view, Room())
    driver = _Driver(
        queue,
        News({}),
        view,
        Plain(),
        lambda: False,
        lambda *_: None,
        gpus=lambda: 2.0,  # type: ignore[arg-type]
    )
    handout, stopper = _Handout(driver, lambda jobs: {"label": jobs[0].label}), _AllStopped(driver)
    for name in "ab":
        handout.suggest(name)
        driver.on_trial_start(1, [], trial(name))
    driver.on_trial_result(1, [], trial("a"), outcomes(_0=DEVICE))
    assert view.preemptions == [("run 0", "a GPU of its node address of actor of a failed", None)]
    (said,) = view.texts
    assert said.startswith("a GPU of node address of actor of a failed and is put aside until this sweep ends (CUDA")
    assert handout.suggest("c") == {"label": "run 0"}
    for name, run in (("b", "_1"), ("c", "_0")):
        driver.on_trial_result(1, [], trial(name), outcomes(**{run: JobOutcome(JobState.DONE)}))
        driver.on_step_begin(1, [trial("a"), trial(name)])
        assert not stopper.stop_all()
        driver.on_trial_complete(1, [], trial(name))
    driver.on_step_begin(1, [trial("a")])
    assert stopper.stop_all()  # the trial that keeps its GPU never ends by itself
    assert queue.finished
    assert queue.failed == {}


def test_without_a_gpu_that_works_the_rest_is_given_up(tmp_path: Path, view: View) -> None:
    launch = LaunchSpec(gpus=1)
    jobs = [*(Job(f"run {n}", spec(n), launch) for n in range(3)), Job("cpu", spec(3), LaunchSpec())]
    store = Store(tmp_path)
    queue = Queue(jobs, StoredRuns(store), view, Room())
    driver = _Driver(
        queue,
        News({}),
        view,
        Plain(),
        lambda: False,
        lambda *_: None,
        gpus=lambda: 1.0,  # type: ignore[arg-type]
    )
    handout, stopper = _Handout(driver, lambda jobs: {}), _AllStopped(driver)
    for name in "ab":  # the second waits for the GPU of the first
        handout.suggest(name)
    driver.on_trial_start(1, [], trial("a"))
    driver.on_trial_result(1, [], trial("a"), outcomes(_0=DEVICE))
    driver.on_step_begin(1, [trial("a"), trial("b", "PENDING")])
    assert stopper.stop_all()
    driver.settle_all()
    why = f"no GPU is left: 1 failed, the last on node address of actor of a ({DEVICE.why})."
    assert queue.failed == {spec(n).name: why for n in range(3)}
    assert store.run(spec(0)).failure() is None  # the same command tries it again
    assert [job.label for job in queue.take()] == ["cpu"]


def test_a_preemption_is_recorded_for_status(tmp_path: Path) -> None:
    store, sweep = Store(tmp_path), SweepSpec(name="s", base={})
    job = Job("a", spec(1), LaunchSpec(), sweep)
    for _ in range(2):
        tune._record_preemption(Where(store, tmp_path), job, "its node 10.0.0.3 was lost")
    tune._record_preemption(Where(store, tmp_path), Job("needed first", spec(2), LaunchSpec()), "lost")
    tune._record_preemption(Where(Store(Path("/dev/null")), tmp_path), job, "lost")  # a store that is away
    assert store.sweep("s").preemptions() == {spec(1).name: Preemptions(2, "its node 10.0.0.3 was lost")}


def test_tune_restarts_no_trial_by_itself() -> None:
    """As it does with those whose node was preempted, unless it is told not to."""
    trial: Any = SimpleNamespace(run_metadata=SimpleNamespace(num_failures=0), max_failures=0)
    Trial._handle_ray_actor_error(trial, RayActorError(preempted=True))
    assert not Trial.should_recover(trial)


def test_asked_to_stop_it_tells_the_control_actor_once_and_ends_when_nothing_runs(
    queue: Queue, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "NEWS_S", 0.0)
    asked: list[bool] = []
    control = News({})
    driver = _Driver(queue, control, view, Plain(), lambda: bool(asked), lambda *_: None)  # type: ignore[arg-type]
    handout, stopper = _Handout(driver, lambda jobs: {}), _AllStopped(driver)
    handout.suggest("a")
    driver.on_step_begin(1, [trial("a")])
    assert not stopper.stop_all()
    assert not stopper("a", {})
    asked.append(True)
    stops_first: list[int] = []  # before anything is said, which may take time
    monkeypatch.setattr(view, "said", lambda text: (stops_first.append(len(control.stops)), view.texts.append(text)))
    for _ in range(2):
        driver.on_step_begin(1, [trial("a"), trial("b", "PENDING")])
        assert not stopper.stop_all()
    assert handout.suggest("c") == Searcher.FINISHED
    assert (control.stops, view.texts) == (["the sweep was asked to stop"], [NOTICE])
    assert stops_first == [1]
    driver.on_step_begin(1, [trial("a", "TERMINATED"), trial("b", "PENDING")])
    assert stopper.stop_all()


def test_news_are_looked_at_now_and_then(queue: Queue, view: View) -> None:
    driver = _Driver(queue, News({}), view, Plain(), lambda: False, lambda *_: None)  # type: ignore[arg-type]
    for _ in range(3):
        driver.look()
    assert view.ticks == 1


class Cluster:
    local = False

    def trial_resources(self, launch: LaunchSpec) -> dict[str, float]:
        return {"CPU": float(launch.cpus)}


def told(
    jobs: list[Job], measured: BatchSize | None, where: Where, lost: dict[str, Process] | None = None
) -> tuple[TrialConfig, dict[str, Any]]:
    """What a trial of these jobs is told, and what Tune is."""
    given = tune._tune_config(jobs, measured, where, Cluster(), lost or {})  # type: ignore[arg-type]
    return TrialConfig.model_validate_json(given["run"]), given


def test_a_trial_is_told_everything(tmp_path: Path) -> None:
    launch = LaunchSpec(cpus=2, loader="map")
    where = Where(Store(tmp_path / "store"), tmp_path, "cuda")
    config, given = told([Job("a", spec(1), launch)], None, where)
    assert config == TrialConfig(
        specs=(spec(1),), launch=launch, store=str(tmp_path / "store"), data_dir=tmp_path, device="cuda", local=False
    )
    assert tune._resources(given).bundles == [{"CPU": 2}]
    assert tune._resources({}).bundles == [{"CPU": 1}]
    lost = {spec(1).name: Process("far", 7, 1), spec(2).name: Process("far", 8, 1)}
    assert told([Job("a", spec(1), launch)], None, where, lost)[0].lost == (Process("far", 7, 1),)
    section = {"metric": "probe/student/linear", "mode": "max", "stop": {"asha": {"grace": "5ep"}}}
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "probe": {"every": "5ep"}}
    sweep = SweepSpec.model_validate({"name": "s", "base": base, "explore": section})
    judged, _ = told([Job("a", spec(1), launch, sweep)], None, where)
    assert judged.rule == JudgedBy(sweep="s", metric="probe/student/linear")


def test_a_batch_is_handed_out_whole_and_each_of_its_runs_ends_by_itself(
    tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "NEWS_S", 0.0)
    launch = LaunchSpec(pack="auto", retries=0)
    queue = Queue(
        [Job(f"run {seed}", spec(seed), launch) for seed in range(5)], StoredRuns(Store(tmp_path)), view, Room()
    )
    plain = Plain()
    driver = _Driver(queue, News({}), view, plain, lambda: False, lambda *_: None)  # type: ignore[arg-type]
    handout = _Handout(driver, lambda jobs: {"labels": [job.label for job in jobs]})
    assert handout.suggest("a") == {"labels": [f"run {seed}" for seed in range(5)]}
    measured = BatchSize(size=3, reason="faster", seconds={1: 1.0})
    spare = outcomes(measured, _3=JobOutcome(JobState.RETURNED), _4=JobOutcome(JobState.RETURNED))
    driver.on_trial_result(1, [], trial("a"), spare)
    assert handout.suggest("b") == {"labels": ["run 3", "run 4"]}
    assert queue.known(Job("new", spec(9), launch)) == measured
    driver.on_trial_result(2, [], trial("a"), outcomes(_1=JobOutcome(JobState.DONE, values={"x": 1.0})))
    assert view.ends == [("run 1", None)]
    driver.on_trial_error(2, [], trial("a"))
    assert [label for label, _ in view.ends] == ["run 1", "run 0", "run 2"]
    driver.on_trial_result(1, [], trial("b"), outcomes(_3=JobOutcome(JobState.DONE), _4=JobOutcome(JobState.DONE)))
    assert len(view.ends) == 4
    driver.settle_all()
    assert handout.suggest("c") == Searcher.FINISHED
    assert plain.heard[-2:] == [("run 3", JobState.DONE), ("run 4", JobState.DONE)]


def test_a_batch_is_told_all_its_specs_and_what_was_measured(tmp_path: Path) -> None:
    jobs = [Job(f"run {seed}", spec(seed), LaunchSpec(pack=2)) for seed in range(2)]
    config, _ = told(jobs, BatchSize(size=2), Where(Store(tmp_path), tmp_path))
    assert (config.specs, config.measured_size) == ((spec(0), spec(1)), BatchSize(size=2))
