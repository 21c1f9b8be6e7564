"""Runs that start from runs: a spec within a spec, however deep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt_scale.spec.run import RunSpec

SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}


def chain(levels: int, **first: Any) -> dict[str, Any]:
    """A spec that starts from one that starts from one ..., as many levels deep."""
    document = {**SMALL, **first}
    for _ in range(levels):
        document = {**SMALL, "teacher": {"start_from": {"run": document}}}
    return document


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_a_round_trip_through_json_keeps_the_name_at_any_depth(levels: int) -> None:
    value = RunSpec.model_validate(chain(levels, student={"alpha": 0.5}))
    again = RunSpec.model_validate_json(value.model_dump_json())
    assert again == value
    from_canonical = RunSpec.model_validate(json.loads(json.dumps(value.canonical())))
    dumped = RunSpec.model_validate(value.model_dump(mode="json"))
    assert {value.name, again.name, from_canonical.name, dumped.name} == {value.name}


def test_the_canonical_value_holds_the_other_runs_own() -> None:
    value = RunSpec.model_validate(chain(2))
    (start,) = value.starts
    assert value.canonical()["teacher"] == {
        "start_from": {"run": start.run.canonical(), "take": "student", "part": "network"}
    }
    assert start.run == RunSpec.model_validate(chain(1))
    assert start.run.name == RunSpec.model_validate(chain(1)).name


def test_whatever_differs_in_the_deepest_run_names_another() -> None:
    names = {
        RunSpec.model_validate(chain(3, **first)).name
        for first in ({}, {"seeds": {"data": 1}}, {"teacher": {"center": 0.5}})
    }
    assert len(names) == 3
    assert len({RunSpec.model_validate(chain(levels)).name for levels in range(4)}) == 4


def test_the_same_meaning_has_the_same_name_within_too() -> None:
    neutral = chain(
        1, objective={"name": "cross_entropy"}, encoder={"name": "convnet_32_2", "norm": "none", "width": 1}
    )
    assert RunSpec.model_validate(neutral).name == RunSpec.model_validate(chain(1)).name


def test_the_configuration_of_a_run_is_without_its_own_seeds() -> None:
    one, two = (RunSpec.model_validate({**chain(1), "seeds": {"data": seed}}) for seed in (0, 1))
    assert one.configuration_hash == two.configuration_hash


def test_both_networks_may_start_from_runs() -> None:
    teacher, student = chain(0), chain(0, student={"alpha": 1.0})
    value = RunSpec.model_validate(
        {
            **SMALL,
            "teacher": {"start_from": {"run": teacher}},
            "student": {"start_from": {"run": student, "take": "init"}},
        }
    )
    assert [start.run.student.alpha for start in value.starts] == [1e-10, 1.0]
    assert [start.take for start in value.starts] == ["student", "init"]
    assert RunSpec.model_validate(SMALL).starts == ()
