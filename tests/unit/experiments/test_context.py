from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments import context as module
from rt_scale.experiments.context import Context, Follower
from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import StoreUnavailable
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.training.checkpoint import Spent
from tests.records import run_record

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
# Probed at the start and the end alone: what else is saved, time decides.
RARE = {"probe.every": None, "train.epochs": 3}


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [0, 4, 6]), (math.inf, [0, 6])])
def test_checkpoints_come_with_time_and_the_first_and_two_newest_stay(
    tiny: Tiny, settings: Make, seconds: float, steps: list[int]
) -> None:
    given = settings(checkpoint_seconds=seconds)
    run(tiny(RARE), given)
    assert given.store.run(tiny(RARE)).checkpoints.steps() == steps


@pytest.mark.parametrize("cache", [True, False])
def test_the_teacher_is_embedded_once_where_its_targets_are_cached(
    tiny: Tiny, settings: Make, seen: Any, cache: bool
) -> None:
    run(tiny(), settings(cache_teacher=cache, observer=seen))
    assert (("embedding the teacher's targets",) in seen.named("stage")) is cache


def test_an_observer_is_told_everything_in_order(tiny: Tiny, settings: Make, seen: Any) -> None:
    given = settings(observer=seen)
    result = run(tiny(), given)
    assert seen.named("started") == [(0, 4)]
    assert seen.named("stepped") == [(1,), (2,), (3,), (4,)]
    assert [step for step, _, _ in seen.named("logged")] == [0, 2, 2, 4, 4]
    assert [epoch for _, epoch, _ in seen.named("logged")] == [0, 1, 1, 2, 2]
    last: dict[str, float] = {}
    for _, _, values in seen.named("logged"):
        last |= values
    assert last == result.last
    stages = [text for (text,) in seen.named("stage")]
    assert stages[:3] == ["probing input pixels", "probing the teacher", "probing the student"]
    assert stages[-1] == "training"
    assert seen.named("warned") == []


def test_a_silent_observer_changes_nothing(tiny: Tiny, settings: Make, seen: Any, tmp_path: Path) -> None:
    store = type(settings().store)
    silent = run(tiny(), settings(store=store(tmp_path / "a"), observer=Silent()))
    watched = run(tiny(), settings(store=store(tmp_path / "b"), observer=seen))
    assert silent.last == watched.last


@pytest.fixture
def context(tmp_path: Path, settings: Make) -> Callable[[], Context]:
    """A new attempt at one run; each call is one process's context."""

    def begin() -> Context:
        run_dir = RunDir(tmp_path / "distill-0000000000000000")
        run_dir.acquire()
        return Context(run_dir, run_record().execution, settings(), hparams={"data": {"name": "digits"}})

    return begin


def test_restoring_takes_metrics_and_state_from_one_moment(context: Callable[[], Context]) -> None:
    first = context()
    assert first.restore(lambda folder: folder.name) is None
    first.log(1, 0.5, {"train/loss": 2.0})

    def write(folder: Path) -> None:
        (folder / "state").write_text("one")

    first.checkpoint(1, write)
    first.log(2, 1.0, {"train/loss": 1.0})
    first.metrics.flush()
    first.run_dir.check().release()

    second = context()
    assert second.restore(lambda folder: (folder / "state").read_text()) == "one"
    assert second.metrics.last() == {"train/loss": 2.0}
    second.log(2, 1.0, {"train/loss": 1.5})
    second.checkpoint(2, lambda folder: None)
    assert read_metrics(second.run_dir.metrics_path).column("value").to_pylist() == [2.0, 1.5]
    second.close("done")
    second.run_dir.check().release()


def test_time_goes_on_from_earlier_attempts(context: Callable[[], Context]) -> None:
    attempt = context()
    own = attempt.spent
    assert own.devices == {"cpu": own.seconds}
    attempt.spent_before = Spent(1000.0, {"gpu": 500.0})
    now = attempt.spent
    assert 1000.0 <= own.seconds + 1000.0 <= now.seconds
    assert now.devices == {"gpu": 500.0, "cpu": pytest.approx(now.seconds - 1000.0)}
    attempt.run_dir.check().release()


def test_a_checkpoint_puts_the_next_one_off(context: Callable[[], Context]) -> None:
    attempt = context()
    attempt.checkpoint_seconds = 1e-9
    assert attempt.checkpoint_due(evaluated=False)
    attempt.checkpoint_seconds = 1e9
    attempt._last_checkpoint -= 2e9
    assert attempt.checkpoint_due(evaluated=False)
    attempt.checkpoint(1, lambda folder: None)
    assert not attempt.checkpoint_due(evaluated=False)
    attempt.run_dir.check().release()


def test_an_evaluation_is_kept_unless_that_takes_longer_than_it_is_worth(
    context: Callable[[], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = context()
    attempt.checkpoint_seconds = 30.0
    assert attempt.checkpoint_due(evaluated=True)  # of a size that is not known yet
    monkeypatch.setattr(module, "CHECKPOINT_RATE", 1000.0)

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(bytes(10_000))

    attempt.checkpoint(1, write)
    table = len(attempt.metrics.to_bytes())
    for ago, due in ((9.0, False), (11.0 + table / 1000, True)):
        attempt._last_checkpoint = time.monotonic() - ago
        assert attempt.checkpoint_due(evaluated=True) is due
        assert not attempt.checkpoint_due(evaluated=False)
    attempt._last_checkpoint = time.monotonic() - 31.0
    assert attempt.checkpoint_due(evaluated=False)
    attempt.run_dir.check().release()


def test_a_run_with_large_checkpoints_writes_the_first_and_the_last(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_RATE", 1.0)
    given = settings()
    run(tiny({"train.epochs": 4}), given)
    assert given.store.run(tiny({"train.epochs": 4})).checkpoints.steps() == [0, 8]


def test_a_store_that_comes_back_is_waited_for(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tiny(RARE), settings()).last
    naps: list[float] = []
    monkeypatch.setattr(module.time, "sleep", naps.append)
    save, calls = RunDir.save_checkpoint, [0]

    def save_checkpoint(self: RunDir, step: int, writer: Callable[[Path], None]) -> None:
        calls[0] += 1
        if calls[0] in (2, 3, 4):
            raise StoreUnavailable("No answer.")
        save(self, step, writer)

    monkeypatch.setattr(RunDir, "save_checkpoint", save_checkpoint)
    given = settings(observer=seen, checkpoint_seconds=math.inf)
    store = type(given.store)(given.store.root.parent / "other")
    result = run(tiny(RARE), dataclasses.replace(given, store=store))
    assert result.last == undisturbed
    assert naps == [1.0, 2.0, 4.0]
    assert seen.named("warned") == [(f"No answer. Training waits, and tries again in {nap:g} s.",) for nap in naps]
    assert (store.run(tiny(RARE)).status().state, store.run(tiny(RARE)).status().attempts) == ("done", 1)


def test_a_store_that_stays_away_ends_the_attempt_without_a_failure(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)

    def save_checkpoint(*_: Any) -> None:
        raise StoreUnavailable("No answer.")

    with monkeypatch.context() as broken:
        broken.setattr(RunDir, "save_checkpoint", save_checkpoint)
        with pytest.raises(StoreUnavailable, match="No answer"):
            run(tiny(), settings(patience_seconds=0.5))
    run_dir = settings().store.run(tiny())
    assert (run_dir.status().state, run_dir.failure()) == ("partial", None)
    run(tiny(), settings())
    assert run_dir.status().state == "done"


def test_the_time_spent_comes_back_with_a_checkpoint(context: Callable[[], Context]) -> None:
    first = context()
    assert first.restore(lambda folder: None) is None
    first.spent_before = Spent(100.0, {"gpu": 50.0})
    first.checkpoint(1, lambda folder: (folder / "state").touch())
    first.close(None)
    first.run_dir.check().release()
    second = context()
    assert second.restore(lambda folder: True) is True
    assert 100.0 <= second.spent_before.seconds < 160.0
    assert second.spent_before.devices["gpu"] == 50.0
    second.close(None)
    second.run_dir.check().release()


def test_an_artifact_is_written_by_rank_0_alone(context: Callable[[], Context]) -> None:
    attempt = context()
    attempt.artifact("grid.npz", b"1")
    follower = Follower(attempt.run_dir, attempt.execution, attempt.options, hparams={})
    follower.artifact("other.npz", b"2")
    assert [path.name for path in attempt.run_dir.artifacts.iterdir()] == ["grid.npz"]
    attempt.run_dir.check().release()
