"""Runs that go on from the state at another run's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import check
from rt_scale.experiments.batched import run_batched
from rt_scale.experiments.flops import run_length
from rt_scale.experiments.networks import load_weights
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from tests.unit.experiments.test_stop import BEHIND, MOVING, files, rows, state

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
SUPERVISED: dict[str, Any] = {
    "kind": "supervise", "projector.out_dim": 10, "data.samples": 100, "train.epochs": 3, "encoder.norm": "batch",
    "train.optimizer": {"name": "sgd", "lr": "multistep(0.05, 0.1, 2ep)", "momentum": 0.9, "weight_decay": 0.01},
    "augment": {"kind": "crop_flip", "padding": 1},
}  # fmt: skip


def going_on(changes: dict[str, Any], stop: str, **more: Any) -> dict[str, Any]:
    """The changes for a run that goes on from the same one stopped there."""
    start = {"run": {"same_but": {"train": {"stop": stop}, **more}}, "take": "state"}
    return {**changes, "student": {"start_from": start}}


@pytest.mark.parametrize("changes", [MOVING, BEHIND, SUPERVISED], ids=["average", "an epoch behind", "supervise"])
@pytest.mark.parametrize(("stop", "step"), [("2ep", 8), ("6it", 6), ("0ep", 0)])
def test_it_ends_as_the_whole_run_bit_for_bit(
    tiny: Tiny, settings: Make, changes: dict[str, Any], stop: str, step: int
) -> None:
    given, whole = settings(), tiny({**changes, "student": {"alpha": 0.5}})
    spec = tiny(going_on(changes, stop, student={"alpha": 0.5}))
    result, expected = run(spec, given), run(whole, given)
    run_dir, of_whole = given.store.run(spec), given.store.run(whole)
    assert (result.steps, result.epochs) == (12, 3)
    assert files(run_dir, 12) == files(of_whole, 12)
    ours, theirs = state(run_dir, 12), state(of_whole, 12)
    assert str(ours["optimizer"]) == str(theirs["optimizer"])
    own = "distance/from_init"  # of this run's start
    assert {name: value for name, value in result.last.items() if name != own} == {
        name: value for name, value in expected.last.items() if name != own
    }

    def logged(each: Any) -> list[Any]:
        return [row for row in rows(each, step + 1, 12) if row[2] != own]

    assert logged(run_dir) == logged(of_whole)
    assert min(row[0] for row in rows(run_dir, 0, 12)) == step


def test_its_start_is_the_other_runs_end(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny(going_on(MOVING, "6it"))
    run(spec, given)
    before, run_dir = given.store.run(spec.starts[0].run), given.store.run(spec)
    assert files(run_dir, 0) == files(before, 6)
    assert state(run_dir, 0)["step"] == 6
    first = min(row for row in rows(run_dir, 6, 6) if row[2] == "probe/student/linear")
    assert first in rows(before, 6, 6)
    step, weights = load_weights(run_dir, "init")
    assert step == 0
    assert all((weights[name] == value).all() for name, value in load_weights(before, "student", 6)[1].items())


def test_another_order_forks_there(tiny: Tiny, settings: Make) -> None:
    given = settings()
    document = going_on(SUPERVISED, "1ep", seeds={"order": 0})
    specs = [tiny({**document, "seeds.order": seed}) for seed in (0, 1)]
    assert specs[0].starts[0].run.name == specs[1].starts[0].run.name
    results = [run(spec, given) for spec in specs]
    dirs = [given.store.run(spec) for spec in specs]
    assert files(dirs[0], 0) == files(dirs[1], 0)
    assert files(dirs[0], 12) != files(dirs[1], 12)
    assert results[0].last["train/loss"] != results[1].last["train/loss"]


def test_stopped_at_any_step_it_goes_on_from_its_own_checkpoint(tiny: Tiny, settings: Make, seen: Any) -> None:
    given, spec = settings(), tiny(going_on(MOVING, "2it"))
    expected = tiny({**MOVING, "student": {}})
    for at in range(3, 12):
        with pytest.raises(Stopped):
            run(spec, settings(observer=seen, stop=lambda at=at: ("stepped", at) in seen.calls))
        assert given.store.run(spec).checkpoints.steps()[-1] == at
    run(spec, given)
    run(expected, given)
    assert files(given.store.run(spec), 12) == files(given.store.run(expected), 12)


def test_batched_runs_may_begin_at_different_steps(tiny: Tiny, settings: Make) -> None:
    changes = {**SUPERVISED, "precision": "float64", "train.optimizer.lr": 0.01}
    specs = [tiny({**changes, "student": {}}), tiny(going_on(changes, "1ep")), tiny(going_on(changes, "5it"))]
    apart = [run(spec, settings()) for spec in specs]
    assert len({result.last["train/loss"] for result in apart}) == 1
    for spec in specs:
        given = settings().store.run(spec)
        given.path.rename(given.path.with_name(f"alone-{spec.hash}"))
    for result, alone in zip(run_batched(specs, [settings()] * 3), apart, strict=True):
        assert not isinstance(result, BaseException)
        assert result.last["train/loss"] == pytest.approx(alone.last["train/loss"])


def test_its_cost_is_that_of_the_steps_that_are_left(tiny: Tiny) -> None:
    base = {**SUPERVISED, "train.epochs": 10, "probe.every": "2ep"}  # 4 steps an epoch
    lengths = {stop: run_length(tiny(going_on(base, stop)), 1437) for stop in ("4ep", "7it", "0ep")}
    assert lengths == {"4ep": (24, 4, 4, 16), "7it": (33, 4, 6, 7), "0ep": (40, 4, 6, 0)}


@pytest.mark.parametrize(
    ("changes", "other", "words"),
    [
        ({}, {"train": {"stop": "1ep", "batch_size": 16}}, "train.batch_size"),
        ({}, {"train": {"stop": "1ep", "optimizer": {"name": "adam", "momentum": 0}}}, "optimizer.name"),
        ({}, {"train": {"stop": "1ep", "optimizer": {"momentum": 0.5}}}, "optimizer.momentum"),
        ({}, {"train": {"stop": "1ep", "optimizer": {"decay_norm_and_bias": False}}}, "decay_norm_and_bias"),
        ({}, {"kind": "distill"}, "kind"),
        ({"projector.parts": "-/lb/fn/-/l/-"}, {"prune": {"round": 1}}, "whose mask"),
        ({"student.start_from.part": "encoder"}, {}, "whole network"),
        ({"teacher.start_from": {"run": "same", "take": "state"}}, {}, "student.start_from"),
        (MOVING, {"teacher": {"update": "none", "statistics": "initial", "momentum": 0.996}}, "a teacher that moves"),
    ],
)
def test_a_state_that_training_cannot_go_on_from(
    tiny: Tiny, changes: dict[str, Any], other: dict[str, Any], words: str
) -> None:
    start = {"run": {"same_but": other}, "take": "state"}
    base = {**(SUPERVISED if "teacher" not in changes else {}), "student": {"start_from": start}, **changes}
    with pytest.raises(ValueError, match=words):
        tiny(base)


@pytest.mark.parametrize(
    ("changes", "other", "words"),
    [
        ({}, {}, "nothing is left to train"),
        ({"train.stop": "2ep"}, {"train": {"stop": "8it"}}, "nothing is left to train"),
        ({}, {"data": {"samples": 90}, "train": {"stop": "1ep"}}, "90 training images"),
    ],
)
def test_what_only_the_data_set_tells(
    tiny: Tiny, digits: Prepared, changes: dict[str, Any], other: dict[str, Any], words: str
) -> None:
    start = {"run": {"same_but": other}, "take": "state"}
    spec = tiny({**SUPERVISED, "student": {"start_from": start}, **changes})
    with pytest.raises(InputError, match=words):
        check(spec, digits.folder.parent)
