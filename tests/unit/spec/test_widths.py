"""A teacher of another width than its student: what it is called, and what it cannot be combined with."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.document import build_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.networks import TeacherSpec
from rt_scale.spec.run import RunSpec
from tests.unit.spec.test_consistency import SMALL, refusal

WIDE: dict[str, Any] = {**SMALL, "teacher": {"width": 2}, "student": {"alpha": 1}}
OTHER = {"name": "convnet_32_2", "width": 2}


def test_the_students_own_width_is_no_other() -> None:
    plain = RunSpec.model_validate({**SMALL, "student": {"alpha": 0.5}})
    assert RunSpec.model_validate({**SMALL, "student": {"alpha": 0.5}, "teacher": {"width": 1}}) == plain
    wide = RunSpec.model_validate({**SMALL, "encoder": OTHER, "teacher": {"width": 2.0}})
    assert wide.name == RunSpec.model_validate({**SMALL, "encoder": OTHER}).name
    assert wide.name != RunSpec.model_validate(WIDE).name


def test_a_part_that_several_runs_share_stays_as_it_is() -> None:
    shared = TeacherSpec(width=2.0)
    RunSpec.model_validate({**SMALL, "encoder": OTHER, "teacher": shared})
    assert shared.width == 2
    assert RunSpec.model_validate({**WIDE, "teacher": shared}).name == RunSpec.model_validate(WIDE).name


def test_it_is_told_in_the_title_and_has_no_distance() -> None:
    wide = RunSpec.model_validate(WIDE)
    assert "convnet_32_2, teacher x 2, digits" in wide.title
    plain = RunSpec.model_validate({**SMALL, "student": {"alpha": 1}})
    assert set(plain.logged) - set(wide.logged) == {"distance/from_teacher"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {}}, "set student.alpha to 1"),
        ({"student": {"alpha": 0.5}}, "teacher.width is 2 and encoder.width 1: no start lies between"),
        ({"student": {"epsilon": 0.1}}, "set student.alpha to 1"),
        ({"teacher": {"width": 2, "update": "ema"}}, "leave out teacher.update"),
        ({"teacher": {"width": 2, "statistics": "data"}}, "leave out teacher.update and teacher.statistics"),
        ({"probe": {"statistics": True}}, "probe.statistics compares"),
        ({"encoder": {"name": "vit_tiny", "init": "authors"}}, "leave encoder.init out"),
        ({"encoder": {"name": "flatten"}}, "teacher.width is 2 and encoder.width 1: Encoder .flatten. has no channels"),
        (
            {"encoder": {"name": "convnet_32_2", "norm": "group8"}, "teacher": {"width": 0.125}},
            "teacher.width is 0.125 and encoder.width 1: .*groups of 8",
        ),
        ({"teacher": {"width": 0}}, "greater than 0"),
        ({"teacher": {"width": 2, "start_from": {"run": SMALL}}}, "only be copied between equal encoders"),
        ({"kind": "supervise", "projector": {"out_dim": 10}}, "leave out teacher.width"),
    ],
)
def test_what_needs_two_equal_networks_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_run({**WIDE, **changes}, "spec.yaml")


def test_weights_of_other_runs_must_be_as_wide_as_the_network_that_takes_them() -> None:
    trained = {**SMALL, "encoder": OTHER}
    taught = RunSpec.model_validate({**WIDE, "teacher": {"width": 2, "start_from": {"run": trained}}})
    assert taught.starts[0].run == RunSpec.model_validate(trained)
    again = {"teacher": {"width": 2, "start_from": {"run": WIDE, "take": "teacher"}}}
    assert RunSpec.model_validate({**WIDE, **again}).starts[0].drawn
    student = {"student": {"start_from": {"run": WIDE}}}
    assert RunSpec.model_validate({**WIDE, **student}).starts[0].run == RunSpec.model_validate(WIDE)
    assert "only be copied between equal encoders" in refusal({**WIDE, "student": {"start_from": {"run": trained}}})


def test_analyses_take_its_student_alone() -> None:
    assert NetworkOf.model_validate({"run": WIDE, "take": "student"}).run.teacher.width == 2
    with pytest.raises(ValueError, match="take student or init"):
        NetworkOf.model_validate({"run": WIDE, "take": "teacher"})
