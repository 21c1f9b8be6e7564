"""What a run takes from another, and the restart experiment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.experiments.dependencies import start_weights
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import build_pair
from rt_scale.spec.errors import RunError
from rt_scale.spec.run import RunSpec
from tests.unit.experiments.conftest import equal, saved

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
Weights = dict[str, torch.Tensor]
MOVES = {"encoder.norm": "batch", "teacher.update": "ema", "teacher.momentum": 0.5, "teacher.statistics": "student"}
FREE: dict[str, Any] = {"student": {}}
"""The tiny spec's alpha aside."""


@pytest.mark.parametrize("changes", [{}, MOVES], ids=["frozen", "moving"])
@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(
    ("take", "step", "name"), [("student", 4, "student"), ("init", 0, "student"), ("teacher", None, "teacher")]
)
def test_what_is_taken(
    tiny: Tiny, settings: Make, changes: dict[str, Any], role: str, take: str, step: int | None, name: str
) -> None:
    given = settings()
    spec = tiny({**FREE, **changes, f"{role}.start_from": {"run": "same", "take": take}})
    before = spec.starts[0].run
    run(before, given)
    if step is None:
        step = 4 if changes else 0
    weights = start_weights(spec, given.store, None)
    assert set(weights) == {role}
    assert equal(weights[role], saved(given.store.run(before), step, name))
    run(spec, given)
    began = saved(given.store.run(spec), 0, role)
    assert equal(began, weights[role])


def test_a_moving_teacher_ends_elsewhere(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny(MOVES)
    run(spec, given)
    run_dir = given.store.run(spec)
    assert not equal(saved(run_dir, 0, "teacher"), saved(run_dir, 4, "teacher"))
    assert not equal(saved(run_dir, 4), saved(run_dir, 4, "teacher"))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_encoder_alone_is_under_a_projector_drawn_anew(tiny: Tiny, settings: Make, role: str) -> None:
    given = settings()
    start = {"run": {"same_but": {"projector": {"hidden": [4], "out_dim": 64}}}, "part": "encoder"}
    spec = tiny({**FREE, f"{role}.start_from": start})
    run(spec, given)
    other = saved(given.store.run(spec.starts[0].run), 4)
    taken = start_weights(spec, given.store, None)[role]
    assert taken.keys() == {name for name in other if name.startswith("encoder.")}
    began = saved(given.store.run(spec), 0, role)
    assert equal({name: began[name] for name in taken}, {name: other[name] for name in taken})
    # The rest is this network's own draw: for the student the one of alpha = 1.
    own = getattr(build_pair(tiny({"student.alpha": 1.0}), 1, 8), role).state_dict()
    rest = began.keys() - taken.keys()
    assert rest
    assert all(torch.equal(began[name], own[name]) for name in rest)


def test_alpha_is_around_a_teacher_that_starts_elsewhere(tiny: Tiny, settings: Make) -> None:
    given = settings()
    spec = tiny({"teacher.start_from": {"run": "same"}, "student.alpha": 0.25})
    run(spec, given)
    teacher, student = (saved(given.store.run(spec), 0, name) for name in ("teacher", "student"))
    fresh = build_pair(tiny({"student.alpha": 1.0}), 1, 8).student.state_dict()
    for name, value in student.items():
        expected = (0.75 * teacher[name] + 0.25 * fresh[name]) / (0.75**2 + 0.25**2) ** 0.5
        assert torch.allclose(value, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_restart_at_alpha_0_begins_bitwise_at_the_first_rounds_student(tiny: Tiny, settings: Make, norm: str) -> None:
    given = settings()
    restart = tiny({"encoder.norm": norm, "student.alpha": 0.0, "teacher.start_from": {"run": "same"}})
    first = run(restart.starts[0].run, given)
    second = run(restart, given)
    ended = saved(given.store.run(restart.starts[0].run), 4)
    run_dir = given.store.run(restart)
    assert equal(ended, saved(run_dir, 0, "student"))
    assert equal(ended, saved(run_dir, 0, "teacher"))
    assert first.last["probe/student/linear"] == second.last["probe/teacher/linear"]
    assert given.store.run(restart.starts[0].run).result() == first


def test_three_rounds_are_computed_from_the_first_on(tiny: Tiny, settings: Make) -> None:
    again = {"same_but": {"teacher": {"start_from": {"run": {"same_but": {"student": {"alpha": 1.0}}}}}}}
    spec, given = tiny({"teacher.start_from": {"run": again}}), settings()
    second = spec.starts[0].run
    names = (second.starts[0].run.name, second.name)
    run(spec, given)
    assert {path.name for path in (given.store.root / "runs").iterdir()} == {*names, spec.name}
    times = [(given.store.root / "runs" / name / "result.json").stat().st_mtime_ns for name in (*names, spec.name)]
    assert times == sorted(times)


def test_a_run_that_others_start_from_is_computed_once(tiny: Tiny, settings: Make) -> None:
    given = settings()
    for alpha in (0.25, 0.75):
        run(
            tiny({"teacher.start_from": {"run": {"same_but": {"student": {"alpha": 1.0}}}}, "student.alpha": alpha}),
            given,
        )
    first = given.store.run(tiny({"student.alpha": 1.0}))
    assert first.status().attempts == 1
    assert len(list((given.store.root / "runs").iterdir())) == 3


def test_a_finished_run_needs_what_it_started_from_no_more(tiny: Tiny, settings: Make) -> None:
    given, spec = settings(), tiny({"teacher.start_from": {"run": "same"}})
    result = run(spec, given)
    shutil.rmtree(given.store.run(spec.starts[0].run).path)
    assert run(spec, given) == result
    assert not given.store.run(spec.starts[0].run).path.exists()


def lose(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)


def cut(checkpoint: Path) -> None:
    os.truncate(checkpoint / "student.safetensors", 100)


def spoil(checkpoint: Path) -> None:
    data = bytearray((checkpoint / "student.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "student.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(lose, "manifest.json is missing"), (cut, "not as it was written"), (spoil, "not as it was written")],
)
def test_a_checkpoint_that_is_gone_or_damaged(
    tiny: Tiny, settings: Make, damage: Callable[[Path], None], problem: str
) -> None:
    given, spec = settings(), tiny({"teacher.start_from": {"run": "same"}})
    before = given.store.run(spec.starts[0].run)
    run(spec.starts[0].run, given)
    damage(before.path / "checkpoints" / "4")
    with pytest.raises(RunError) as caught:
        run(spec, given)
    message = str(caught.value)
    assert message.startswith(f"This run takes the student of run {spec.starts[0].run.name}, but its checkpoint '")
    assert problem in message
    assert f"Move the folder '{before.path}' away to have that run computed anew." in message
    failure = given.store.run(spec).failure()
    assert failure is not None
    assert failure["reason"] == message
    before.path.rename(before.path.with_name("aside"))
    assert run(spec, given).attempts == 2


def test_weights_of_a_run_that_is_not_finished(tiny: Tiny, settings: Make) -> None:
    spec = tiny({"teacher.start_from": {"run": "same"}})
    with pytest.raises(RunError, match=f"{spec.starts[0].run.name}, whose student is taken, is not finished"):
        start_weights(spec, settings().store, None)
