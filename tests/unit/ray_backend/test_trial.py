"""How a trial executes its run, and says how that ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import trial as module
from rt_scale.ray_backend.control import ENDED, PREEMPTED
from rt_scale.ray_backend.trial import _in_words, run_trial, where_it_is
from rt_scale.spec.errors import Held, InputError, RunError, StoreAway, WorkersDied
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.training.loop import Stopped
from tests.records import run_result

SPEC = RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}})


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    launch = LaunchSpec(cpus=3, loader="map", accelerate="compile").model_dump(mode="json")
    return {
        "spec": SPEC.model_dump(mode="json"), "launch": launch, "store": str(tmp_path / "store"),
        "data_dir": str(tmp_path), "device": "cpu", "local": True, "judged": None,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_control_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray is there: the client finds no control."""

    def absent(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr("ray.get_actor", absent)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "node")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.3")


def test_what_it_is_given_reaches_the_run(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(spec: RunSpec, settings: Any) -> RunResult:
        calls.append((spec, settings))
        return run_result({"train/loss": 1.5})

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    assert run_trial(given) == {"state": "done", "why": "", "values": {"train/loss": 1.5}}
    ((spec, settings),) = calls
    assert spec == SPEC
    assert (settings.threads, settings.loader, settings.accelerate, settings.device) == (3, "map", "compile", "cpu")
    assert settings.store.root == Store(Path(given["store"])).root
    assert settings.data_dir == Path(given["data_dir"])
    assert settings.stop() is False
    settings.observer.told = PREEMPTED
    assert settings.stop() is True
    assert settings.gpus == 1.0
    given["launch"]["gpus"] = 0.25
    run_trial(given)
    assert calls[-1][1].gpus == 0.25
    # The next run of this process finds the images of this one.
    assert calls[-1][1].resident is settings.resident


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (Held("another one"), "leased_elsewhere", "another one"),
        (StoreAway("no answer"), "store_unavailable", "no answer"),
        (WorkersDied("a worker of its 2 died"), "died", "a worker of its 2 died"),
        (RunError("It diverged."), "failed", "It diverged."),
        (InputError("No such data."), "failed", "No such data."),
        (Stopped(), "returned", ""),
        (ImportError("no\n torch"), "failed", "could not be started (ImportError: no torch)"),
    ],
)
def test_how_a_run_ended_is_said(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, why: str
) -> None:
    def run(spec: RunSpec, settings: Any) -> Any:
        raise error

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    said = run_trial(given)
    assert said["state"] == state
    assert why in said["why"]


def test_several_workers_leave_a_node_and_their_trial_stays(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def run_with_workers(spec: RunSpec, launch: LaunchSpec, *, client: Any, **more: Any) -> Any:
        calls.append((spec, launch.workers, more))
        client.told = PREEMPTED
        raise Stopped

    monkeypatch.setattr("rt_scale.ray_backend.train_workers.run_with_workers", run_with_workers)
    given["launch"] |= {"workers": 2, "accelerate": "none"}
    assert run_trial(given) == {"state": "returned", "why": PREEMPTED, "values": {}}
    more = {"store": given["store"], "data_dir": Path(given["data_dir"]), "device": "cpu"}
    assert calls == [(SPEC, 2, more)]


def test_a_run_that_its_rule_ends_is_settled(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"metric": "probe/student/linear", "mode": "max", "stop": {"asha": {"grace": "5ep"}}}
    given["judged"] = {"explore": section, "sweep": "s"}
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(module.tune, "report", reports.append)

    def run(spec: RunSpec, settings: Any) -> Any:
        observer = settings.observer
        observer.started(0, 100)
        observer.logged(10, 1.0, {"train/loss": 2.0})
        observer.logged(50, 5.0, {"probe/student/linear": 0.25})
        observer.told = f"{ENDED}asha after 5 epochs"
        raise Stopped

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    values = {"train/loss": 2.0, "probe/student/linear": 0.25}
    assert run_trial(given) == {"state": "early_stopped", "why": "asha after 5 epochs", "values": values}
    said = {"sweep": "s", "run": SPEC.name, "step": 50, "last": False, "time": 5.0, "value": 0.25}
    assert reports == [{"state": "running", "explore": said}]


def test_on_a_node_that_is_about_to_go_the_process_ends(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def run(spec: RunSpec, settings: Any) -> Any:
        settings.observer.told = PREEMPTED
        raise Stopped

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    monkeypatch.setattr(module.os, "_exit", end)
    with pytest.raises(Ended):
        run_trial(given)


@pytest.mark.parametrize(
    ("launch", "local", "device", "gpus", "text"),
    [
        ({}, True, "auto", [], "cpu"),
        ({"gpus": 1}, True, "auto", [3], "cuda:3"),
        ({"gpus": 1}, True, "cpu", [3], "cpu"),
        ({}, False, "cpu", [], "10.0.0.3 cpu"),
        ({"workers": 4}, False, "auto", [], "10.0.0.3 4 workers"),
    ],
)
def test_where_a_run_is_executed(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, Any], local: bool, device: str, gpus: list[int], text: str
) -> None:
    monkeypatch.setattr("ray.get_gpu_ids", lambda: gpus)
    assert where_it_is(LaunchSpec(**launch), {"local": local, "device": device}) == text


def test_errors_are_told_in_words() -> None:
    assert _in_words(RunError("The disk is full.")) == "The disk is full."
    told = _in_words(ImportError("no module\n  named torch"))
    assert "could not be started (ImportError: no module named torch)" in told
    assert "rt-scale doctor" in told
