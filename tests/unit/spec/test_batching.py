"""Which runs can train as one batched network."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.batching import IN_COMMON, batch_key, batch_problem, same_images
from rt_scale.spec.document import set_dotted
from rt_scale.spec.run import RunSpec

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_2", "norm": "none"}}


def spec(**changes: Any) -> RunSpec:
    document = BASE
    for key, value in changes.items():
        document = set_dotted(document, key.replace("__", "."), value)
    return RunSpec.model_validate(document)


OTHER: dict[str, dict[str, Any]] = {
    "kind": {"kind": "supervise", "projector__out_dim": 10},
    "data": {"data__samples": 100},
    "encoder": {"encoder__norm": "batch"},
    "projector": {"projector__out_dim": 512},
    "augment": {"augment__kind": "crop_flip"},
    "train.batch_size": {"train__batch_size": 100},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", IN_COMMON)
def test_what_runs_must_share(name: str) -> None:
    changes = OTHER[name]
    base = spec(projector__out_dim=10) if name == "kind" else spec()
    assert batch_problem([base, spec(**changes)]) == f"they differ in {name}"
    assert batch_key(base) != batch_key(spec(**changes))
    assert batch_problem([spec(**changes)] * 2) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": {"teacher": 1, "student": 2, "probe": 3}},
        {"student__alpha": 0.5},
        {"student__epsilon": 0.5},
        {"teacher__update": "ema"},
        {"objective__name": "mse"},
        {"train__epochs": 7, "train__freeze_last": "1ep"},
        {"train__optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9, "clip": 1.0}},
        {"probe__every": "2ep", "probe__knn": 3},
        {"student__start_from": {"run": BASE, "take": "student"}},
    ],
)
def test_what_is_each_runs_own(changes: dict[str, Any]) -> None:
    assert batch_problem([spec(), spec(**changes)]) == ""
    assert batch_key(spec()) == batch_key(spec(**changes))


@pytest.mark.parametrize("field", ["alpha", "epsilon"])
def test_a_student_that_starts_as_its_teacher_trains_alone(field: str) -> None:
    alone = spec(**{f"student__{field}": 0})
    assert alone.alone_because == f"student.{field} is 0"
    assert batch_problem([spec(), alone]) == f"{alone.name} must train alone: its student.{field} is 0"
    assert spec(kind="supervise", student__alpha=0, projector__out_dim=10).alone_because == ""


def test_images_are_the_same_where_their_seed_is() -> None:
    assert same_images([spec(), spec(seeds__student=1)])
    assert not same_images([spec(), spec(seeds__data=1)])
    assert not same_images([spec(), spec(seeds__order=1)])
    assert same_images([spec(), spec(seeds__order=0)])
