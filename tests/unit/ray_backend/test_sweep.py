"""What a driver decides; what runs through a real Ray is in tests/integration/test_sweep.py."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rt_scale.ray_backend import sweep as module
from rt_scale.ray_backend.sweep import reason, run_sweeps
from rt_scale.scheduler.deadline import Deadline
from rt_scale.scheduler.job import Job, Where, jobs_of
from rt_scale.scheduler.preflight import failed_before
from rt_scale.scheduler.search import Search
from rt_scale.spec.errors import DeadlineReached, ExitCode, InputError
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, SweepSpec
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops, SweepRuns
from tests.records import run_result

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
SWEEP = SweepSpec(name="small", base=BASE, axes={"student.alpha": [0.1, 0.5, 1.0]})


@pytest.fixture
def points() -> list[Point]:
    return expand(SWEEP)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def finish(store: Store, point: Point) -> None:
    complete(store, point.spec)


def complete(store: Store, spec: RunSpec) -> None:
    run_dir = store.run(spec)
    with run_dir.acquire():
        run_dir.write_spec(spec)
        run_dir.complete(run_result(name=spec.name))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for Ray: finishes the first run, tells a refusal of the second, says nothing of the others."""
    calls: list[dict[str, Any]] = []

    def run(sweeps: Any, todo: list[Job], _: Any, where: Where, view: Any, stopping: Any, lost: Any) -> Any:
        calls.append({"todo": todo, "where": where, "lost": lost, "notes": view.texts})
        for job in todo[:1]:
            complete(where.store, job.spec)
        late = {job.spec.name for job in todo[2:] if where.deadline and not where.deadline.allows(job)}
        return {todo[1].spec.name: "refused"} if len(todo) > 1 else {}, {job.spec.name for job in todo[2:]}, late

    monkeypatch.setattr(module, "_run", run)
    return calls


def go(points: list[Point], store: Store, tmp_path: Path, **changes: Any) -> Any:
    views: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def view(total: int, done: int) -> Iterator[Any]:
        views.append((total, done))
        shown = SimpleNamespace(texts=[])
        shown.said = shown.texts.append
        yield shown

    sweep = SweepRuns(changes.pop("sweep", SWEEP), points, store, "name: small\n")
    more = {key: changes.pop(key) for key in ("stopping", "lost") if key in changes}
    where = Where(store=store, data_dir=tmp_path / "data", **changes)
    (outcome,) = run_sweeps([sweep], where, view, **more)
    return outcome, views


def test_a_driver_runs_what_is_not_finished(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    finish(store, points[1])
    lost = [].append
    outcome, views = go(points, store, tmp_path, device="cpu", concurrency=3, lost=lost)
    (call,) = launched
    assert [(task.label, task.spec, task.launch) for task in call["todo"]] == [
        (point.label, point.spec, SWEEP.launch) for point in (points[0], points[2])
    ]
    assert call["where"] == Where(store=store, data_dir=tmp_path / "data", device="cpu", concurrency=3)
    assert call["lost"] is lost
    assert views == [(3, 1)]
    assert outcome.finished == points[:2]
    assert outcome.failed == {points[2].label: "refused"}
    folder = store.sweep("small")
    assert folder.file.read_text() == "name: small\n"
    assert folder.runs() == [point.spec.name for point in points]
    assert folder.board.is_dir()


def test_what_is_left_at_the_deadline_is_told(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    late = Deadline(time.time() + 3600, lambda job: 7200.0)
    with pytest.raises(DeadlineReached, match="leaves 1 run without a result, 1 run of which by the plan") as refused:
        go(points, store, tmp_path, deadline=late)
    assert refused.value.exit_code == ExitCode.DEADLINE
    more = expand(SWEEP.model_copy(update={"seeds": [5]}))[:1]
    with pytest.raises(DeadlineReached, match=r"leaves 1 run without a result\. The same"):
        go([points[1], points[2], *more], store, tmp_path, deadline=Deadline(0.0))


def test_runs_of_other_drivers_are_told_with_who_executes_them(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    with store.run(points[2].spec).acquire():
        outcome, _ = go(points, store, tmp_path)
    assert outcome.failed == {points[1].label: "refused"}
    assert outcome.left == {points[2].label: f"process {os.getpid()} on host {socket.gethostname()}"}
    outcome, _ = go([*points, *expand(SWEEP.model_copy(update={"seeds": [5]}))], store, tmp_path)
    assert "it needs a run that another driver executes" in outcome.left.values()
    finish(store, points[2])
    assert go(points, store, tmp_path)[0].left == {}


def test_a_search_counts_the_runs_that_it_will_sample(store: Store, tmp_path: Path, launched: list[Any]) -> None:
    explore = {
        "metric": "probe/student/linear", "mode": "max", "search": {"optuna": {"runs": 5}},
        "space": {"student.alpha": {"uniform": [0.1, 1.0]}},
    }  # fmt: skip
    sweep = SweepSpec.model_validate({"name": "searched", "base": BASE, "explore": explore})
    assert go([], store, tmp_path, sweep=sweep)[1] == [(5, 0)]
    search = Search(SweepRuns(sweep, [], store))
    sampled = [point for point in (search.next() for _ in range(3)) if point is not None]
    complete(store, sampled[0].spec)
    with (run_dir := store.run(sampled[1].spec)).acquire():
        run_dir.write_spec(sampled[1].spec)
        run_dir.fail({"reason": "it diverged."})
    outcome, views = go([], store, tmp_path, sweep=sweep)
    assert views == [(5, 1)]
    assert [task.spec for task in launched[-1]["todo"]] == [point.spec for point in sampled[1:]]
    assert len(outcome.finished) == 2


def test_asked_to_stop_it_ends_as_ctrl_c_does(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(points, store, tmp_path, stopping=lambda: True)
    assert len(launched) == 1


def test_several_sweeps_are_one_queue_of_distinct_runs(store: Store) -> None:
    other = SweepSpec(name="other", base=BASE, axes={"student.alpha": [1.0, 0.25]}, launch=LaunchSpec(cpus=2))
    sweeps = [SweepRuns(each, expand(each), store) for each in (SWEEP, other)]
    tasks = list(jobs_of(sweeps).values())
    assert [(task.label, task.launch.cpus) for task in tasks] == [
        ("small: alpha=0.1,seed=0", 1), ("small: alpha=0.5,seed=0", 1), ("small: alpha=1,seed=0", 1),
        ("other: alpha=0.25,seed=0", 2),
    ]  # fmt: skip
    assert next(iter(jobs_of(sweeps[:1]).values())).label == "alpha=0.1,seed=0"
    with pytest.raises(InputError, match="distinct names; given: small, small"):
        jobs_of([sweeps[0], sweeps[0]])


def test_runs_that_failed_are_named_with_what_tries_them_again(store: Store) -> None:
    start = {"teacher": {"start_from": {"run": {"same_but": {"seeds": {"student": 9}}}}}}
    points = expand(SweepSpec(name="a", base={**BASE, **start}, axes={"student.alpha": [0.1, 0.5]}))
    first = points[0].spec.starts[0].run
    for spec in (first, points[1].spec):
        run_dir = store.run(spec)
        with run_dir.acquire():
            run_dir.fail({"reason": "It diverged."})
    with store.run(points[0].spec).acquire():
        pass  # that one was stopped
    tasks = [Job(point.label, point.spec, LaunchSpec()) for point in points]
    why = "It diverged. (It failed before, and is tried again with --retry-failed.)"
    assert failed_before(tasks, store) == {first.name: why, points[1].spec.name: why}


def test_a_sweep_that_changed_since_its_runs_says_so(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    go(points, store, tmp_path)
    other = SWEEP.model_copy(update={"axes": {"student.alpha": [0.5, 1.0, 0.25, 0.75]}})
    go(expand(other), store, tmp_path, sweep=other)
    assert launched[0]["notes"] == []
    assert launched[1]["notes"] == [
        "sweep 'small' has changed since it was run: 2 of its 4 runs are new, and 1 of the earlier "
        "ones no longer belong to it; they stay in the store until 'rt-scale gc --delete'"
    ]
    grown = SWEEP.model_copy(update={"axes": {"student.alpha": [0.5, 1.0, 0.25, 0.75, 0.1]}})
    go(expand(grown), store, tmp_path, sweep=grown)
    assert launched[2]["notes"] == []
    foreign = SWEEP.model_copy(update={"axes": {"student.alpha": [0.3]}})
    with pytest.raises(InputError, match="holds a sweep 'small' of 5 runs, and none of them is among the 1 of this"):
        go(expand(foreign), store, tmp_path, sweep=foreign)
    assert len(store.sweep("small").runs()) == 5
    go(expand(foreign), store, tmp_path, sweep=foreign, replace=True)
    assert len(store.sweep("small").runs()) == 1


def test_runs_that_a_rule_ended_before_are_left_alone(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any]
) -> None:
    section = {"metric": "probe/student/linear", "mode": "max", "stop": {"asha": {"grace": "5ep"}}}
    base = {**BASE, "probe": {"every": "5ep"}}
    sweep = SweepSpec.model_validate({**SWEEP.model_dump(by_alias=True), "base": base, "explore": section})
    points = expand(sweep)
    assert sweep.explore is not None
    stop = EarlyStop("asha", 10, 5.0, "ep", "probe/student/linear", 0.5)
    EarlyStops(sweep.explore, store.sweep("small")).record(points[1].spec.name, stop)
    outcome, _ = go(points, store, tmp_path, sweep=sweep)
    assert [task.label for task in launched[0]["todo"]] == [points[0].label, points[2].label]
    assert outcome.ended == {points[1].label: "asha after 5 epochs: probe/student/linear was 0.5"}
    assert outcome.failed == {points[2].label: "refused"}
    plain = sweep.model_copy(update={"explore": None})
    go(points, store, tmp_path, sweep=plain)
    assert [task.label for task in launched[1]["todo"]] == [points[1].label, points[2].label]


def test_on_a_cluster_what_this_machine_lacks_does_not_matter(
    store: Store, tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = expand(SweepSpec(name="a", base={**BASE, "data": {"name": "my_own"}}))
    with pytest.raises(InputError, match="my_own"):
        go(absent, store, tmp_path)
    go(absent, store, tmp_path, address="10.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(InputError, match="my_own"):
        go(absent, Store(tmp_path / "other"), tmp_path, address="local")
    go(absent, Store(tmp_path / "other"), tmp_path)
    assert len(launched) == 2


def test_a_finished_sweep_starts_no_ray(points: list[Point], store: Store, tmp_path: Path, launched: list[Any]) -> None:
    for point in points:
        finish(store, point)
    outcome, views = go(points, store, tmp_path)
    assert launched == views == []
    assert outcome.finished == points
    assert outcome.failed == {}


@pytest.mark.parametrize("change", [{"device": "cdua"}, {"store": Store(Path("/dev/null/store"))}])
def test_what_cannot_work_is_refused_before_anything_starts(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any], change: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        go(points, **{"store": store, "tmp_path": tmp_path, **change})
    assert launched == []
    assert not (store.root / "sweeps").exists()


@pytest.mark.parametrize("within", [False, True])
def test_tf32_on_a_cpu_is_refused_before_anything_starts(
    store: Store, tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch, within: bool
) -> None:
    """Of the runs themselves, and of those to be computed before them."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tf32 = {"precision": "tf32"}
    base = {**BASE, "teacher": {"start_from": {"run": {"same_but": tf32}}}} if within else BASE | tf32
    points = expand(SweepSpec(name="small", base=base))
    for device in ("auto", "cpu"):
        with pytest.raises(InputError, match="tf32"):
            go(points, store, tmp_path, device=device)
    assert launched == []
    assert not (store.root / "sweeps").exists()
    if within:  # a result that is there was computed elsewhere
        (start,) = points[0].spec.starts
        finish(store, Point({}, 0, start.run))
        go(points, store, tmp_path)
        assert len(launched) == 1


def test_ffcv_that_is_not_there_is_refused_before_anything_starts(
    points: list[Point], store: Store, tmp_path: Path, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    asked = SWEEP.model_copy(update={"launch": LaunchSpec(loader="ffcv")})
    with pytest.raises(InputError, match="FFCV is not installed"):
        go(points, store, tmp_path, sweep=asked)
    assert launched == []
    assert not (store.root / "sweeps").exists()
    go(points, store, tmp_path)
    assert len(launched) == 1


def test_a_driver_imports_no_torch() -> None:
    code = "import sys, rt_scale.ray_backend.sweep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_a_sweep_that_does_not_fit_its_data_is_refused(store: Store, tmp_path: Path, launched: list[Any]) -> None:
    bad = expand(SweepSpec(name="bad", base={**BASE, "data": {"name": "digits", "samples": 3}}))
    with pytest.raises(InputError, match=r"data\.samples is 3"):
        go(bad, store, tmp_path)
    assert launched == []


def test_reasons_why_a_run_has_no_result(points: list[Point], store: Store) -> None:
    assert reason(store, points[0]).startswith("it did not finish (its process died or was stopped)")
    run_dir = store.run(points[0].spec)
    with run_dir.acquire():
        assert reason(store, points[0]).startswith("it is being run by process ")
        run_dir.fail({"reason": "The loss is nan."})
    assert reason(store, points[0]) == "The loss is nan."
