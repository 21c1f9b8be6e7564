"""Runs that start from runs: a spec within a spec, however deep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.run import OwnSpec, RunSpec, all_runs

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


def test_the_student_of_one_that_learned_labels_classifies() -> None:
    taught = {"run": {**SMALL, "kind": "supervise", "projector": {"out_dim": 10}}}
    base = {**SMALL, "projector": {"out_dim": 10}}
    deeper = {"run": {**base, "teacher": {"start_from": taught}}}
    classifies = {
        "labels": RunSpec.model_validate(taught["run"]),
        "taught": RunSpec.model_validate({**base, "teacher": {"start_from": taught}}),
        "taught by one that was": RunSpec.model_validate({**base, "teacher": {"start_from": deeper}}),
    }
    encoder, teacher = {**taught, "part": "encoder"}, {**taught, "take": "teacher"}
    others = {
        "random": RunSpec.model_validate(base),
        "encoder": RunSpec.model_validate({**base, "teacher": {"start_from": encoder}}),
        "its teacher": RunSpec.model_validate({**base, "teacher": {"start_from": teacher}}),
        "student": RunSpec.model_validate({**base, "student": {"start_from": taught}}),
        "other images": RunSpec.model_validate(
            {**base, "data": {"name": "mnist", "size": 8}, "teacher": {"start_from": taught}}
        ),
    }
    assert all(spec.classifies and "test/accuracy" in spec.logged for spec in classifies.values())  # type: ignore[attr-defined]
    assert not any(spec.classifies or "test/accuracy" in spec.logged for spec in others.values())  # type: ignore[attr-defined]
    elsewhere = {"own": False, "also": ["mnist"]}
    unprobed = RunSpec.model_validate({**base, "teacher": {"start_from": taught}, "probe": elsewhere})
    assert "test/accuracy" not in unprobed.logged


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


EMA = {"update": "ema"}


def taken(take: str, role: str = "teacher", **run: Any) -> RunSpec:
    return RunSpec.model_validate({**SMALL, role: {"start_from": {"run": {**SMALL, **run}, "take": take}}})


@pytest.mark.parametrize(
    ("take", "run", "finished"),
    [
        ("student", {}, True), ("init", {}, False), ("teacher", {}, False),
        ("init", {"teacher": EMA}, False), ("teacher", {"teacher": EMA}, True),
        ("teacher", {"teacher": {"statistics": "data", "mode": "train"}}, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_run_of_which_only_the_start_is_taken_need_not_be_finished(
    role: str, take: str, run: dict[str, Any], finished: bool
) -> None:
    spec = taken(take, role, **run)
    assert spec.contained == (spec.starts[0].run,)  # type: ignore[attr-defined]
    assert spec.dependencies == (spec.contained if finished else ())
    assert all_runs([spec]) == [*spec.dependencies, spec]
    assert all_runs([spec], drawn=True) == [*spec.contained, spec]


def test_a_start_that_is_drawn_needs_what_it_is_drawn_around() -> None:
    first = {**SMALL, "student": {"alpha": 1.0}}
    spec, other = taken("init", teacher={"start_from": {"run": first}}), RunSpec.model_validate(first)
    assert spec.dependencies == (other,)
    assert all_runs([spec], drawn=True) == [other, *spec.contained, spec]
    at_start = {"start_from": {"run": first, "take": "init"}}
    assert taken("init", teacher=at_start).dependencies == ()
    beside = {"teacher": {"start_from": {"run": first}}, "student": at_start}
    assert taken("init", **beside).dependencies == ()  # the student is no copy of the teacher
    assert taken("teacher", **beside).dependencies == (other,)
    twice = {**SMALL, **beside}
    assert taken("init", teacher={"start_from": {"run": twice, "take": "teacher"}}).dependencies == (other,)


def test_networks_in_any_part_are_needed_as_they_are_taken() -> None:
    class Part(OwnSpec):
        ends: list[NetworkOf]
        other: NetworkOf

    runs = [{**SMALL, "seeds": {"data": seed}} for seed in range(3)]
    ends, other = [{"run": runs[0]}, {"run": runs[1], "take": "init"}], {"run": runs[2], "take": "teacher"}
    networks = [NetworkOf.model_validate(each) for each in (*ends, other)]
    spec = Part.model_construct(kind="own:Part", source="0" * 64, ends=networks[:2], other=networks[2])
    known = [RunSpec.model_validate(run) for run in runs]
    assert spec.contained == tuple(known)
    assert spec.dependencies == (known[0],)
    assert networks[1].canonical() == {"run": known[1].canonical(), "take": "init"}
