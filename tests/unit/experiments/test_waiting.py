"""A run that waits for the one it starts from, fails with it, and keeps its numbers apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rt_scale.experiments import dependencies
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
RESTART = {"teacher.start_from": {"run": "same"}}
DIVERGES = {"train": {"optimizer": {"name": "sgd", "lr": 1e30, "weight_decay": 0}}}


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Any]]:
    """What happens elsewhere while a run sleeps, one each time; it sleeps no longer than the list is."""
    happenings: list[Callable[[], Any]] = []

    def sleep(seconds: float) -> None:
        assert seconds == dependencies.PATIENCE
        happenings.pop(0)()

    monkeypatch.setattr(dependencies, "time", SimpleNamespace(sleep=sleep))  # a library may sleep, too
    return happenings


def test_it_waits_while_another_process_computes_and_takes_that_result(
    tiny: Tiny, settings: Make, seen: Any, naps: list[Callable[[], Any]]
) -> None:
    given, spec = settings(observer=seen), tiny(RESTART)
    first = spec.starts[0].run
    elsewhere = run(first, settings(store=type(given.store)(given.store.root / "elsewhere")))
    held = given.store.run(first)
    held.acquire()

    def finish() -> None:
        (given.store.root / "elsewhere" / "runs" / first.name / "checkpoints").rename(held.path / "checkpoints")
        held.write_spec(first)
        held.complete(elsewhere)
        held.check().release()

    naps += [lambda: None, finish]
    run(spec, given)
    assert naps == []
    assert held.result() == elsewhere
    assert held.status().attempts == 1
    stages = [text for (text,) in seen.named("stage")]
    assert stages[:2] == [f"waiting for {first.name}, which another process computes"] * 2
    assert not any(text.startswith("first ") for text in stages)


def test_one_that_lets_go_between_the_refusal_and_the_next_look(
    tiny: Tiny, settings: Make, naps: list[Callable[[], Any]]
) -> None:
    given, spec = settings(), tiny(RESTART)
    held = given.store.run(spec.starts[0].run)
    lease = held.acquire()

    def refused_just_in_time(wanted: RunSpec, with_settings: Options) -> RunResult:
        try:
            return run(wanted, with_settings)
        except InputError:
            lease.release()
            raise

    naps += [lambda: None]
    result = dependencies.compute_first(spec.starts[0].run, given, refused_just_in_time)
    assert (result.attempts, naps) == (2, [])


def test_it_goes_on_where_the_other_process_was_killed(
    tiny: Tiny, settings: Make, naps: list[Callable[[], Any]]
) -> None:
    given, spec = settings(), tiny(RESTART)
    held = given.store.run(spec.starts[0].run)
    lease = held.acquire()
    naps += [lambda: None, lease.release]
    run(spec, given)
    assert held.result() is not None
    assert held.status().attempts == 2


def test_what_cannot_be_run_here_is_not_waited_for(tiny: Tiny, settings: Make, naps: list[Callable[[], Any]]) -> None:
    given = settings()
    spec = tiny({"teacher.start_from": {"run": {"same_but": {"precision": "tf32"}}}})
    with pytest.raises(InputError, match="tf32"):
        run(spec, given)
    assert not given.store.root.exists()
    # One that was computed on a machine that can is only read.
    first = given.store.run(spec.starts[0].run)
    elsewhere = tiny()
    run(elsewhere, given)
    shutil.copytree(given.store.run(elsewhere).path, first.path)
    assert run(spec, given).attempts == 1


def test_a_run_that_fails_is_named_and_the_other_fails_for_that_reason(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny({"teacher.start_from": {"run": {"same_but": DIVERGES}}})
    first = spec.starts[0].run
    for attempt in (1, 2):
        with pytest.raises(RunError) as caught:
            run(spec, given)
        message = str(caught.value)
        assert message.startswith(f"The run {first.name}, which this run needs, has no result: The ")
        assert "training diverged. Lower train.optimizer.lr" in message
        assert given.store.run(first).status().state == "failed"
        assert given.store.run(first).status().attempts == attempt
        failure = given.store.run(spec).failure()
        assert failure is not None
        assert failure["reason"] == message
        assert given.store.run(spec).checkpoints.steps() == []


def test_the_numbers_of_the_first_run_stay_its_own(tiny: Tiny, settings: Make, seen: Any) -> None:
    given, spec = settings(observer=seen), tiny(RESTART)
    first = spec.starts[0].run
    run(spec, given)
    tables = {}
    for name, each in (("first", first), ("second", spec)):
        table = read_metrics(given.store.run(each).metrics_path).to_pydict()
        tables[name] = list(zip(table["step"], table["name"], table["value"], strict=True))
    logged = [(step, name, value) for step, _, values in seen.named("logged") for name, value in values.items()]
    assert logged == tables["second"] != tables["first"]
    assert seen.named("started") == [(0, 4)]
    assert seen.named("stepped") == [(1,), (2,), (3,), (4,)]
    alone = settings(store=type(given.store)(given.store.root / "alone"))
    run(first, alone)
    ours, theirs = (each.store.run(first).result() for each in (alone, given))
    assert ours is not None
    assert theirs is not None
    assert ours.last == theirs.last


def test_what_the_first_run_does_is_shown_and_its_warnings_named(tiny: Tiny, settings: Make, seen: Any) -> None:
    given, spec = settings(observer=seen), tiny(RESTART)
    first = spec.starts[0].run
    run(spec, given)
    stages = [text for (text,) in seen.named("stage")]
    prefix = f"first {first.name}: "
    others = [text for text in stages if text.startswith(prefix)]
    assert stages[: len(others)] == others
    assert f"{prefix}probing the student" in others
    shares = [text.removeprefix(f"{prefix}training, ") for text in others if "training, " in text]
    assert shares == ["25 %", "50 %", "75 %", "100 %"]
    before = dependencies._DependencyObserver(seen, first.name)
    before.warned("Something.")
    assert seen.named("warned") == [(f"{first.name}: Something.",)]


def test_a_long_first_run_tells_every_tenth_step(seen: Any) -> None:
    before = dependencies._DependencyObserver(seen, "distill-0")
    before.started(0, 1000)
    for step in range(1, 1001):
        before.stepped(step)
    shares = [text for (text,) in seen.named("stage")][1:]
    assert shares == [f"first distill-0: training, {share} %" for share in range(10, 101, 10)]
    assert seen.named("stepped") == []
