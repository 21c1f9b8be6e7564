"""How a trial executes several runs together, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import trial as module
from rt_scale.ray_backend.control import PREEMPTED
from rt_scale.ray_backend.trial import run_packed_trial
from rt_scale.spec.errors import Held, InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.results import BatchSize
from rt_scale.training.loop import Stopped
from tests.records import run_result

SPECS = [
    RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "seeds": {"student": seed}})
    for seed in range(4)
]
NAMES = [spec.name for spec in SPECS]


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    return {
        "specs": [spec.model_dump(mode="json") for spec in SPECS],
        "launch": LaunchSpec(cpus=2, pack="auto").model_dump(mode="json"), "store": str(tmp_path / "store"),
        "data_dir": str(tmp_path), "device": "cpu", "local": True, "judged": None, "packing": None,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def no_control_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray is there: the client finds no control."""

    def absent(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr("ray.get_actor", absent)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    monkeypatch.setattr("ray.get_runtime_context", type("Context", (), {"get_node_id": staticmethod(lambda: "node")}))


class Pack:
    """Stands in for the runs: measures what it is told to, and ends each as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, packing: BatchSize | Exception, *outcomes: Any) -> None:
        self.packing, self.outcomes = packing, outcomes
        self.asked: list[tuple[list[str], int | None]] = []
        self.ran: list[tuple[Sequence[RunSpec], Sequence[Any]]] = []
        monkeypatch.setattr("rt_scale.experiments.batched.choose_batch_size", self.choose)
        monkeypatch.setattr("rt_scale.experiments.batched.run_batched", self.run)

    def choose(self, specs: Sequence[RunSpec], settings: Any, most: int | None) -> BatchSize:
        self.asked.append(([spec.name for spec in specs], most))
        if isinstance(self.packing, Exception):
            raise self.packing
        return self.packing

    def run(self, specs: Sequence[RunSpec], settings: Sequence[Any], ended: Any) -> None:
        self.ran.append((specs, settings))
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, Stopped):
                settings[number].observer.told = outcome.args[0]
            ended(number, outcome)


MEASURED = BatchSize(size=3, reason="faster", seconds={1: 0.2, 2: 0.1})


def test_as_many_as_is_fastest_are_run_and_each_is_told_of_when_it_ends(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Pack(monkeypatch, MEASURED, run_result({"a": 1.0}), RunError("It diverged."), Held("another one"))
    said: list[dict[str, Any]] = []
    assert run_packed_trial(given, said.append) == {"state": "packed"}
    assert pack.asked == [(NAMES, None)]
    ((specs, settings),) = pack.ran
    assert list(specs) == SPECS[:3]
    assert [each.batching for each in settings] == [MEASURED] * 3
    assert [each.observer.run for each in settings] == NAMES[:3]
    assert {(each.threads, each.device) for each in settings} == {(2, "cpu")}
    settings[1].observer.told = "enough"
    assert [each.stop() for each in settings] == [False, True, False]
    assert said[0]["runs"] == {NAMES[3]: {"state": "returned", "why": "", "values": {}}}
    assert BatchSize.model_validate(said[0]["packing"]) == MEASURED
    assert [each["runs"] for each in said[1:]] == [
        {NAMES[0]: {"state": "done", "why": "", "values": {"a": 1.0}}},
        {NAMES[1]: {"state": "failed", "why": "It diverged.", "values": {}}},
        {NAMES[2]: {"state": "leased_elsewhere", "why": "another one", "values": {}}},
    ]
    assert {each["state"] for each in said} == {"running"}


def test_what_was_measured_before_or_asked_for_is_not_measured_again(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Pack(monkeypatch, BatchSize(size=4, reason="launch.pack is 4"))
    said: list[dict[str, Any]] = []
    run_packed_trial(given | {"packing": MEASURED.to_json()}, said.append)
    assert pack.asked == []
    assert [each.batching for each in pack.ran[-1][1]] == [MEASURED] * 3
    given["launch"]["pack"] = 4
    run_packed_trial(given, said.append)
    assert pack.asked == [(NAMES, 4)]
    assert len(pack.ran[-1][0]) == 4
    assert said[-1] == {"state": "running", "runs": {}, "packing": None}
    given["specs"] = given["specs"][:1]
    run_packed_trial(given, said.append)
    assert len(pack.asked) == 1
    assert pack.ran[-1][1][0].batching.reason == "no other run of its shape was waiting"


def test_what_cannot_be_measured_is_run_alone_to_find_out_why(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = Pack(monkeypatch, InputError("No such data."), InputError("No such data."))
    said: list[dict[str, Any]] = []
    run_packed_trial(given, said.append)
    assert list(said[0]["runs"]) == NAMES[1:]
    assert said[1]["runs"] == {NAMES[0]: {"state": "failed", "why": "No such data.", "values": {}}}
    assert "No such data." in pack.ran[0][1][0].batching.reason


def test_on_a_node_that_is_about_to_go_the_process_ends_once_all_have_stopped(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(module.os, "_exit", end)
    Pack(monkeypatch, MEASURED, run_result(), Stopped(PREEMPTED), Stopped(PREEMPTED))
    said: list[dict[str, Any]] = []
    with pytest.raises(Ended):
        run_packed_trial(given, said.append)
    assert [list(each["runs"]) for each in said] == [NAMES[3:], NAMES[:1]]


def test_asked_to_stop_they_say_so(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Pack(monkeypatch, BatchSize(size=1, reason="does not pay"), Stopped("the sweep was asked to stop"))
    said: list[dict[str, Any]] = []
    assert run_packed_trial(given, said.append) == {"state": "packed"}
    assert said[1]["runs"] == {NAMES[0]: {"state": "returned", "why": "the sweep was asked to stop", "values": {}}}
