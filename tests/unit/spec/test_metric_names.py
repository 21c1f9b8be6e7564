from __future__ import annotations

import pytest

from rt_scale.spec.metric_names import ProbeName, is_constant, parse_probe_name, probe_group


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (ProbeName("student", "linear"), "probe/student/linear"),
        (ProbeName("input", "knn_standardized", "cifar100"), "probe@cifar100/input/knn_standardized"),
        (ProbeName("teacher", "ridge", "my.set-2"), "probe@my.set-2/teacher/ridge"),
    ],
)
def test_names_are_read_as_they_are_written(name: ProbeName, text: str) -> None:
    assert str(name) == text
    assert parse_probe_name(text) == name
    assert text.startswith(f"{probe_group(name.data)}/")


@pytest.mark.parametrize(
    "text", ["train/loss", "distance/from_init", "probe@/student/linear", "probe/student", "probes/student/linear"]
)
def test_other_metrics_are_no_probes(text: str) -> None:
    assert parse_probe_name(text) is None


def test_what_is_measured_once_a_run() -> None:
    inputs = {"probe/input/knn", "probe@mnist/input/linear"}
    teacher = {"probe/teacher/knn", "probe@mnist/teacher/knn", "features/teacher/std"}
    changing = {
        "probe/student/knn", "probe@mnist/student/knn", "features/student/std", "features/student/cka_teacher",
        "distance/from_teacher", "distance/encoder/from_teacher", "train/teacher_entropy", "test/accuracy",
    }  # fmt: skip
    every = inputs | teacher | changing
    assert {name for name in every if is_constant(name, frozen_teacher=True)} == inputs | teacher
    assert {name for name in every if is_constant(name, frozen_teacher=False)} == inputs
