"""A teacher that moves: probed anew, checkpointed, and put back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network
from rt_scale.probes.evaluator import Embedded, Prober
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from tests.unit.experiments.conftest import saved

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]
EMA = {"encoder.norm": "batch", "teacher": {"update": "ema", "momentum": 0.5, "statistics": "student"}}
MOVING: dict[str, dict[str, Any]] = {
    "ema": EMA,
    "previous_epoch": {"teacher": {"update": "previous_epoch"}},
    "statistics": {"encoder.norm": "batch", "teacher": {"statistics": "data"}},
    "dino": {
        **EMA,
        "teacher": {
            "update": "ema",
            "momentum": "cosine(0.5, 1)",
            "mode": "train",
            "statistics": "data",
            "center": 0.9,
        },
        "augment": {"kind": "multicrop", "local_views": 2, "global_size": 8, "local_size": 4},
        "objective.pairing": "opposite",
    },
}


def series(run_dir: RunDir) -> dict[str, list[float]]:
    table = read_metrics(run_dir.metrics_path).to_pydict()
    found: dict[str, list[float]] = {}
    for name, value in zip(table["name"], table["value"], strict=True):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the encoders in the order in which they were probed."""
    ids: list[int] = []
    original = Prober.embed_network

    def watch(self: Prober, encoder: torch.nn.Module, *rest: Any) -> Embedded:
        ids.append(id(encoder))
        return original(self, encoder, *rest)

    monkeypatch.setattr(Prober, "embed_network", watch)
    return ids


@pytest.mark.parametrize("changes", MOVING.values(), ids=MOVING)
def test_it_is_probed_anew_at_every_evaluation(
    tiny: Tiny, settings: Make, probed: list[int], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = []
    probe_features = Prober.probe_features
    monkeypatch.setattr(
        Prober, "probe_features", lambda self, given: together.append(len(given)) or probe_features(self, given)
    )
    spec, given = tiny({**changes, "probe.statistics": True, "train.epochs": 3}), settings()
    run(spec, given)
    assert together == [1, 2, 2, 2, 2]  # the input, then both networks as one batch
    teacher, student = probed[:2]
    assert probed == [teacher, student] * 4
    found = series(given.store.run(spec))
    assert len(found["probe/teacher/linear"]) == len(found["features/teacher/std"]) == 4
    teachers, students = found["features/teacher/std"], found["features/student/std"]
    if spec.teacher.update == "previous_epoch":  # measured as the teacher that the epoch's student learned from
        assert teachers[0] == teachers[1]
        assert teachers[2:] == students[1:3]
    assert len(set(teachers)) == (3 if spec.teacher.update == "previous_epoch" else 4)
    assert len(set(found["probe/input/linear"])) == 1


def test_one_that_is_frozen_once(tiny: Tiny, settings: Make, probed: list[int]) -> None:
    spec, given = tiny({"encoder.norm": "batch", "teacher.mode": "train", "probe.statistics": True}), settings()
    run(spec, given)
    teacher, *students = probed
    assert len(students) == 3
    assert teacher not in students
    assert len(set(series(given.store.run(spec))["features/teacher/std"])) == 1


@pytest.mark.parametrize("changes", MOVING.values(), ids=MOVING)
def test_it_is_in_every_checkpoint_and_a_frozen_one_in_the_first(
    tiny: Tiny, settings: Make, changes: dict[str, Any]
) -> None:
    given = settings()
    for spec, steps in ((tiny(changes), {0, 2, 4}), (tiny(), {0})):
        run(spec, given)
        folder = given.store.run(spec).path / "checkpoints"
        assert {int(path.parent.name) for path in folder.glob("*/teacher.safetensors")} == steps


def test_an_average_ends_between_where_it_was_and_the_student(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({**EMA, "train.epochs": 1}), settings()
    run(spec, given)
    run_dir = given.store.run(spec)
    start, end, student = saved(run_dir, 0, "teacher"), saved(run_dir, 2, "teacher"), saved(run_dir, 2, "student")
    name = "encoder.features.0.weight"
    assert not torch.equal(start[name], end[name])
    assert (end[name] - student[name]).norm() < (start[name] - student[name]).norm()
    assert not torch.equal(end["encoder.features.1.running_mean"], start["encoder.features.1.running_mean"])


def test_the_student_of_the_epoch_before(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({"teacher": {"update": "previous_epoch"}}), settings()
    run(spec, given)
    run_dir = given.store.run(spec)
    for step in (2, 4):  # as the next epoch finds it
        teacher, student = saved(run_dir, step, "teacher"), saved(run_dir, step, "student")
        assert all(torch.equal(teacher[name], student[name]) for name, _ in teacher.items())


@pytest.mark.parametrize("changes", MOVING.values(), ids=MOVING)
def test_a_run_that_is_resumed_goes_on_bitwise(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, break_off: BreakOff, changes: dict[str, Any]
) -> None:
    spec = tiny({**changes, "student.center": 0.5, "probe.statistics": True, "train.epochs": 3})
    alone = settings(store=type(settings().store)(tmp_path / "undisturbed"))
    undisturbed = run(spec, alone)

    break_off(spec, settings(observer=seen), at=5)
    result = run(spec, settings(observer=seen))
    assert seen.named("started") == [(0, 6), (4, 6)]
    assert (result.last, result.best) == (undisturbed.last, undisturbed.best)
    for name in ("teacher", "student"):
        one, two = (saved(given.store.run(spec), 6, name) for given in (alone, settings()))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("teacher", "training"), [({}, False), ({"mode": "train"}, True), ({"mode": "eval", "update": "ema"}, False)]
)
def test_its_mode_in_training(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch, teacher: dict[str, Any], training: bool
) -> None:
    modes = set()
    features = Network.features_of_views

    def watch(self: Network, views: Any) -> torch.Tensor:
        if not any(parameter.requires_grad for parameter in self.parameters()):  # the teacher
            modes.add(self.training)
        return features(self, views)

    monkeypatch.setattr(Network, "features_of_views", watch)
    run(tiny({"encoder.norm": "batch", "teacher": teacher}), settings(cache_teacher=False))
    assert modes == {training}


def test_statistics_that_are_not_learned_stay(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    spec = tiny({"encoder.norm": "batch", "teacher": {"update": "ema", "mode": "train"}})
    given = settings()
    run(spec, given)
    ended = saved(given.store.run(spec), 4, "teacher")
    assert not ended["encoder.features.1.running_mean"].any()
    assert (ended["encoder.features.1.running_var"] == 1).all()
