"""How a trial executes its run, or several runs together, and what it reports of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rt_scale.ray_backend import trial as module
from rt_scale.ray_backend.control import ControlClient, StopReason, StopRequest
from rt_scale.ray_backend.trial import (
    JudgedBy,
    Measurement,
    TrialConfig,
    TrialReport,
    job_outcome,
    run_batch,
    run_in_process,
    run_trial,
)
from rt_scale.scheduler.job import JobOutcome, JobState
from rt_scale.spec.errors import DeviceLost, InputError, LeasedElsewhere, RunError, StoreUnavailable, WorkersDied
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.lease import Process
from rt_scale.store.results import BatchSize, RunResult
from tests.records import run_result

SPECS = tuple(
    RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2"}, "seeds": {"student": seed}})
    for seed in range(4)
)
SPEC, NAMES = SPECS[0], [spec.name for spec in SPECS]
ASKED = StopRequest(StopReason.ASKED, "the sweep was asked to stop")
PREEMPTED = StopRequest(StopReason.PREEMPTED, "its node 10.0.0.3 was preempted")


@pytest.fixture
def config(tmp_path: Path) -> TrialConfig:
    return TrialConfig(
        specs=(SPEC,), launch=LaunchSpec(cpus=3, loader="map", accelerate="compile"), store=str(tmp_path / "store"),
        data_dir=tmp_path, device="cpu", local=True,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_control_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray is there: the client finds no control actor."""

    def absent(name: str) -> Any:
        raise ValueError(name)

    monkeypatch.setattr("ray.get_actor", absent)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    context = type("Context", (), {"get_node_id": staticmethod(lambda: "node")})
    monkeypatch.setattr("ray.get_runtime_context", context)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.3")


class Ended(Exception):
    """Stands in for the end of the process."""


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(module.os, "_exit", end)


def changed(config: TrialConfig, **launch: Any) -> TrialConfig:
    return config.model_copy(update={"launch": config.launch.model_copy(update=launch)})


def reported(config: TrialConfig, run: Any = run_in_process) -> list[TrialReport]:
    """What the driver is told of the run."""
    reports: list[TrialReport] = []
    run_trial(config, reports.append, run)
    return reports


def outcome(config: TrialConfig, run: Any = run_in_process) -> JobOutcome:
    (report,) = reported(config, run)
    return report.outcomes[SPEC.name]


def test_what_it_is_given_reaches_the_run(config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(spec: RunSpec, options: Any) -> RunResult:
        calls.append((spec, options))
        return run_result({"train/loss": 1.5})

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    assert outcome(config) == JobOutcome(JobState.DONE, values={"train/loss": 1.5})
    ((spec, options),) = calls
    assert spec == SPEC
    assert (options.threads, options.loader, options.accelerate, options.device) == (3, "map", "compile", "cpu")
    assert str(options.store.root) == config.store
    assert options.data_dir == config.data_dir
    assert options.stop() is False
    options.observer.stop_request = PREEMPTED
    assert options.stop() is True
    assert options.gpus == 1.0
    monkeypatch.setattr("rt_scale.store.lease._lost", lost := set[Process]())
    process = Process("far", 7, 1)
    reported(changed(config, gpus=0.25).model_copy(update={"lost": (process,)}))
    assert lost == {process}
    assert calls[-1][1].gpus == 0.25
    # The next run of this process finds the images of this one.
    assert calls[-1][1].resident is options.resident


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (LeasedElsewhere("in use", "process 7 on host far"), JobState.LEASED_ELSEWHERE, "process 7 on host far"),
        (StoreUnavailable("no answer"), JobState.STORE_UNAVAILABLE, "no answer"),
        (WorkersDied("a worker of its 2 died"), JobState.DIED, "a worker of its 2 died"),
        (WorkersDied("its node was lost", with_node=True), JobState.PREEMPTED, "its node was lost"),
        (RunError("It diverged."), JobState.FAILED, "It diverged."),
        (InputError("No such data."), JobState.FAILED, "No such data."),
        (Stopped(), JobState.RETURNED, ""),
        (ImportError("no\n torch"), JobState.FAILED, "could not be started (ImportError: no torch)"),
    ],
)
def test_how_a_run_came_out_is_reported(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, why: str
) -> None:
    def run(spec: RunSpec, options: Any) -> Any:
        raise error

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    found = outcome(config)
    assert found.state == state
    assert why in found.why


def test_what_cannot_be_started_is_told_with_what_finds_out_why() -> None:
    assert "rt-scale doctor" in job_outcome(ImportError("no torch"), ControlClient("a", "cpu")).why


def test_several_workers_leave_a_node_and_their_trial_stays(config: TrialConfig) -> None:
    def run(config: TrialConfig, client: ControlClient) -> Any:
        client.stop_request = PREEMPTED
        raise Stopped

    assert outcome(changed(config, workers=2), run) == JobOutcome(JobState.PREEMPTED, PREEMPTED.text)


def test_on_a_node_that_is_about_to_go_the_process_ends(config: TrialConfig) -> None:
    def run(config: TrialConfig, client: ControlClient) -> Any:
        client.stop_request = PREEMPTED
        raise Stopped

    reports: list[TrialReport] = []
    with pytest.raises(Ended):
        run_trial(config, reports.append, run)
    (report,) = reports  # before it ends
    assert report.outcomes == {SPEC.name: JobOutcome(JobState.PREEMPTED, PREEMPTED.text)}


class Kept(Exception):
    """Stands in for a process that keeps its GPU."""


def lose_gpu(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    def keep() -> None:
        raise Kept

    monkeypatch.setattr(module, "works", lambda: works)
    monkeypatch.setattr(module, "keep", keep)


@pytest.mark.parametrize(("works", "state"), [(True, JobState.DIED), (False, JobState.DEVICE_LOST)])
def test_a_process_whose_gpu_is_gone_keeps_it_and_one_that_broke_only_itself_ends(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, works: bool, state: JobState
) -> None:
    def run(config: TrialConfig, client: ControlClient) -> Any:
        raise DeviceLost("CUDA says: unspecified launch failure")

    lose_gpu(monkeypatch, works)
    reports: list[TrialReport] = []
    with pytest.raises(Ended if works else Kept):
        run_trial(config, reports.append, run)
    assert reports[0].outcomes == {SPEC.name: JobOutcome(state, "CUDA says: unspecified launch failure")}


def test_a_run_that_its_rule_ends_comes_out_so(config: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = JudgedBy(sweep="s", metric="probe/student/linear")

    def run(spec: RunSpec, options: Any) -> Any:
        observer = options.observer
        observer.started(0, 100)
        observer.logged(10, 1.0, {"train/loss": 2.0})
        observer.logged(20, 2.0, {"probe/student/linear": math.nan})
        observer.logged(50, 5.0, {"probe/student/linear": 0.25})
        observer.logged(100, 10.0, {"probe/student/linear": 0.5})
        observer.stop_request = StopRequest(StopReason.ENDED_EARLY, "asha after 5 epochs")
        raise Stopped

    monkeypatch.setattr("rt_scale.experiments.runner.run", run)
    *judged, last = reported(config.model_copy(update={"rule": rule}))
    assert [report.measured for report in judged] == [
        Measurement("s", SPEC.name, 50, 5.0, False, 0.25),
        Measurement("s", SPEC.name, 100, 10.0, True, 0.5),
    ]
    values = {"train/loss": 2.0, "probe/student/linear": 0.5}
    assert last.outcomes == {SPEC.name: JobOutcome(JobState.EARLY_STOPPED, "asha after 5 epochs", values)}


@pytest.mark.parametrize(
    ("launch", "local", "device", "gpus", "text"),
    [
        ({}, True, "auto", [], "cpu"),
        ({"gpus": 1}, True, "auto", [3], "cuda:3"),
        ({"gpus": 1}, True, "cpu", [3], "cpu"),
        ({"gpus": 1}, True, "auto", ["MIG-41b35014-f64a-5f6b-9b62-c0ffee012345"], "cuda:MIG-41b35014"),
        ({}, False, "cpu", [], "10.0.0.3 cpu"),
        ({"workers": 4}, False, "auto", [], "10.0.0.3 4 workers"),
    ],
)
def test_where_a_run_is_executed(
    config: TrialConfig, monkeypatch: pytest.MonkeyPatch, launch: dict[str, Any], local: bool, device: str,
    gpus: list[Any], text: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("ray.get_gpu_ids", lambda: gpus)
    given = changed(config, **launch).model_copy(update={"local": local, "device": device})
    assert given.where() == text


def test_ray_carries_what_is_said_unchanged(config: TrialConfig) -> None:
    values = {"x": 0.1 + 0.2, "nan": float("nan"), "inf": float("inf")}
    told = TrialReport(
        outcomes={"a": JobOutcome(JobState.DONE, values=values)}, measured_size=BatchSize(size=3, seconds={1: 0.2})
    )
    heard = TrialReport.model_validate_json(told.model_dump_json())
    assert repr(heard) == repr(told)
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


class Batch:
    """Stands in for the runs: measures what it is told to, and ends each as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, packing: BatchSize | Exception, *outcomes: Any) -> None:
        self.packing, self.outcomes = packing, outcomes
        self.asked: list[tuple[list[str], int | None]] = []
        self.ran: list[tuple[Sequence[RunSpec], Sequence[Any]]] = []
        monkeypatch.setattr("rt_scale.experiments.batched.choose_batch_size", self.choose)
        monkeypatch.setattr("rt_scale.experiments.batched.run_batched", self.run)

    def choose(self, specs: Sequence[RunSpec], options: Any, most: int | None) -> BatchSize:
        self.asked.append(([spec.name for spec in specs], most))
        if isinstance(self.packing, Exception):
            raise self.packing
        return self.packing

    def run(self, specs: Sequence[RunSpec], options: Sequence[Any], ended: Any) -> None:
        self.ran.append((specs, options))
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, Stopped):
                options[number].observer.stop_request = outcome.args[0]
            ended(number, outcome)


MEASURED = BatchSize(size=3, reason="faster", seconds={1: 0.2, 2: 0.1})


@pytest.fixture
def several(config: TrialConfig) -> TrialConfig:
    return config.model_copy(update={"specs": SPECS, "launch": LaunchSpec(cpus=2, pack="auto")})


def batched(config: TrialConfig) -> list[TrialReport]:
    reports: list[TrialReport] = []
    run_batch(config, reports.append)
    return reports


def test_as_many_as_is_fastest_are_run_and_each_is_reported_when_it_ends(
    several: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(
        monkeypatch, MEASURED, run_result({"a": 1.0}), RunError("It diverged."), LeasedElsewhere("", "another one")
    )
    first, *reports = batched(several)
    assert batch.asked == [(NAMES, None)]
    ((specs, options),) = batch.ran
    assert tuple(specs) == SPECS[:3]
    assert [each.batching for each in options] == [MEASURED] * 3
    assert [each.observer.run for each in options] == NAMES[:3]
    assert {(each.threads, each.device) for each in options} == {(2, "cpu")}
    options[1].observer.stop_request = ASKED
    assert [each.stop() for each in options] == [False, True, False]
    assert first.outcomes == {NAMES[3]: JobOutcome(JobState.RETURNED)}
    assert first.measured_size == MEASURED
    assert [report.outcomes for report in reports] == [
        {NAMES[0]: JobOutcome(JobState.DONE, values={"a": 1.0})},
        {NAMES[1]: JobOutcome(JobState.FAILED, "It diverged.")},
        {NAMES[2]: JobOutcome(JobState.LEASED_ELSEWHERE, "another one")},
    ]


def test_what_was_measured_before_or_asked_for_is_not_measured_again(
    several: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(monkeypatch, BatchSize(size=4, reason="launch.pack is 4"))
    batched(several.model_copy(update={"measured_size": MEASURED}))
    assert batch.asked == []
    assert [each.batching for each in batch.ran[-1][1]] == [MEASURED] * 3
    four = several.model_copy(update={"launch": LaunchSpec(cpus=2, pack=4)})
    assert batched(four) == [TrialReport()]
    assert batch.asked == [(NAMES, 4)]
    assert len(batch.ran[-1][0]) == 4
    batched(four.model_copy(update={"specs": SPECS[:1]}))
    assert len(batch.asked) == 1
    assert batch.ran[-1][1][0].batching.reason == "no other run of its shape was waiting"


def test_what_cannot_be_measured_is_run_alone_to_find_out_why(
    several: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Batch(monkeypatch, InputError("No such data."), InputError("No such data."))
    first, second = batched(several)
    assert list(first.outcomes) == NAMES[1:]
    assert second.outcomes == {NAMES[0]: JobOutcome(JobState.FAILED, "No such data.")}
    assert "No such data." in batch.ran[0][1][0].batching.reason


def test_on_a_node_that_is_about_to_go_the_process_ends_once_all_have_stopped(
    several: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    Batch(monkeypatch, MEASURED, run_result(), Stopped(PREEMPTED), Stopped(PREEMPTED))
    reports: list[TrialReport] = []
    with pytest.raises(Ended):
        run_batch(several, reports.append)
    assert [list(report.outcomes) for report in reports] == [NAMES[3:], NAMES[:1], NAMES[1:2], NAMES[2:3]]
    preempted = JobOutcome(JobState.PREEMPTED, PREEMPTED.text)
    assert [*reports[2].outcomes.values(), *reports[3].outcomes.values()] == [preempted] * 2


def test_batched_runs_whose_gpu_is_gone_keep_it(several: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_gpu(monkeypatch, works=False)
    Batch(monkeypatch, MEASURED, run_result(), DeviceLost("gone"), DeviceLost("gone"))
    reports: list[TrialReport] = []
    with pytest.raises(Kept):
        run_batch(several, reports.append)
    lost = JobOutcome(JobState.DEVICE_LOST, "gone")
    assert [outcome for report in reports[2:] for outcome in report.outcomes.values()] == [lost, lost]


def test_asked_to_stop_they_say_so(several: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    Batch(monkeypatch, BatchSize(size=1, reason="does not pay"), Stopped(ASKED))
    assert batched(several)[1].outcomes == {NAMES[0]: JobOutcome(JobState.RETURNED, ASKED.text)}
