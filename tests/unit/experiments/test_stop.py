"""Runs that end before the end of their schedules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.check import fits
from rt_scale.experiments.flops import run_length
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
MOVING: dict[str, Any] = {
    "data.samples": 100, "encoder.norm": "batch", "train.epochs": 3, "train.optimizer.lr": "cosine(0.01, 0)",
    "teacher": {"update": "ema", "momentum": "cosine(0.9, 1)", "center": 0.9, "statistics": "student"},
}  # fmt: skip
"""3 epochs of 4 steps, in which everything changes along a schedule."""
BEHIND = {**MOVING, "teacher": {"update": "previous_epoch"}}


def files(run_dir: RunDir, step: int) -> dict[str, bytes]:
    folder = run_dir.path / "checkpoints" / str(step)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def state(run_dir: RunDir, step: int) -> dict[str, Any]:
    kept: dict[str, Any] = torch.load(run_dir.path / "checkpoints" / str(step) / "state.pt", weights_only=True)
    return kept


def rows(run_dir: RunDir, least: int, most: int) -> list[tuple[int, float, str, float]]:
    """What was logged from step ``least`` to ``most``."""
    table = read_metrics(run_dir.metrics_path).drop_columns("time").to_pylist()
    return [tuple(row.values()) for row in table if least <= row["step"] <= most]


def weights_at(spec: RunSpec, given: Options, step: int, seen: Any) -> dict[str, bytes]:
    """Of a run that is stopped from outside after ``step``, and can go on."""

    def reached() -> bool:
        return ("stepped", step) in seen.calls

    with pytest.raises(Stopped):
        run(spec, dataclasses.replace(given, stop=reached, observer=seen))
    return files(given.store.run(spec), step)


@pytest.mark.parametrize("changes", [MOVING, BEHIND], ids=["average", "an epoch behind"])
@pytest.mark.parametrize(("stop", "step"), [("2ep", 8), ("6it", 6), ("1it", 1)])
def test_it_has_the_bits_of_the_whole_run_at_that_step(
    tiny: Tiny, settings: Make, seen: Any, stop: str, step: int, changes: dict[str, Any]
) -> None:
    given, whole, part = settings(), tiny(changes), tiny({**changes, "train.stop": stop})
    if step % 4:
        expected = weights_at(whole, given, step, seen)
    else:  # asked to stop there, it would leave its evaluation and its teacher's update for later
        run(whole, settings(checkpoint_seconds=0))
        expected = files(given.store.run(whole), step)
    result = run(part, given)
    run_dir = given.store.run(part)
    assert (result.steps, result.epochs) == (step, step // 4)
    assert expected.keys() == {"student.safetensors", "teacher.safetensors"}
    assert files(run_dir, step) == expected
    run(whole, given)
    of_whole = given.store.run(whole)
    before = step - 1  # at the last step it is evaluated besides
    assert rows(run_dir, 0, before) == rows(of_whole, 0, before)
    if step % 4 == 0:
        assert rows(run_dir, step, step) == rows(of_whole, step, step)


def test_an_unfinished_epochs_means_are_of_what_it_saw(tiny: Tiny, settings: Make) -> None:
    given = settings()
    two, three = (tiny({"data.samples": 96, "train.stop": f"{steps}it"}) for steps in (1, 2))
    one = run(two, given).last["train/loss"]
    both = run(three, given).last["train/loss"]
    kept = state(given.store.run(three), 2)
    assert (kept["epoch"], kept["step"], kept["weight"]) == (0, 2, 64)
    assert kept["sums"]["loss"] == pytest.approx(64 * both)
    assert both != one
    (when,) = {(step, epoch) for step, epoch, name, _ in rows(given.store.run(three), 1, 99) if name == "train/loss"}
    assert when == (2, 2 / 3)


def test_at_its_start_nothing_is_trained(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny({"train.stop": "0ep"})
    result = run(spec, given)
    assert (result.steps, result.epochs) == (0, 0)
    assert "train/loss" not in result.last
    assert "probe/student/linear" in result.last
    run(tiny(), given)
    assert files(given.store.run(spec), 0) == files(given.store.run(tiny()), 0)
    assert run(spec, given) == result


def test_asked_to_stop_in_the_last_evaluation_it_ends_as_if_it_had_not_been(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Any
) -> None:
    spec = tiny({**MOVING, "train.stop": "6it"})
    alone = settings(store=Store(tmp_path / "alone"))
    expected = run(spec, alone)
    given = settings(observer=seen, stop=lambda: ("stepped", 6) in seen.calls and seen.calls[-1][0] == "stage")
    with pytest.raises(Stopped):
        run(spec, given)
    assert run(spec, settings()).last == expected.last
    for run_dir in (alone.store.run(spec), given.store.run(spec)):
        assert state(run_dir, 6)["sums"] == state(alone.store.run(spec), 6)["sums"] != {}
    assert files(given.store.run(spec), 6) == files(alone.store.run(spec), 6)


def test_its_cost_is_that_of_its_steps(tiny: Tiny) -> None:
    # 60 images in batches of 32: 2 steps an epoch.
    base = {"train.epochs": 10, "probe.every": "2ep"}
    lengths = {stop: run_length(tiny({**base, "train.stop": stop}), 1437)[:3] for stop in (None, "4ep", "7it", "0ep")}
    assert lengths == {None: (20, 2, 6), "4ep": (8, 2, 3), "7it": (7, 2, 3), "0ep": (0, 2, 1)}
    assert tiny({**base, "train.stop": "4ep"}).shape == tiny(base).shape


def test_beyond_the_end_it_is_refused_with_the_data_set(tiny: Tiny, digits: Prepared) -> None:
    fits(tiny({"train.stop": "3it"}), digits)
    for stop in ("4it", "5it"):
        with pytest.raises(InputError, match=r"train.stop is .it.* after 4 steps \(2 epochs of 2\)"):
            fits(tiny({"train.stop": stop}), digits)
