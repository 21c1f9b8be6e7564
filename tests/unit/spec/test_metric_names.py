from __future__ import annotations

import math

import pytest

from rt_scale.spec.metrics import (
    ProbeName,
    difference_bounds,
    is_constant,
    metric_bounds,
    parse_probe_name,
    probe_group,
)
from rt_scale.spec.run import RunSpec


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
    inputs = {"layers/input/cosine", "probe/input/knn", "probe@mnist/input/linear"}
    teacher = {"probe/teacher/knn", "probe@mnist/teacher/knn", "features/teacher/std", "layers/teacher/cosine_01"}
    changing = {
        "probe/student/knn", "probe@mnist/student/knn", "features/student/std", "features/student/cka_teacher",
        "layers/student/separability_embedding",
        "distance/from_teacher", "distance/encoder/from_teacher", "train/teacher_entropy", "test/accuracy",
    }  # fmt: skip
    every = inputs | teacher | changing
    assert {name for name in every if is_constant(name, frozen_teacher=True)} == inputs | teacher
    assert {name for name in every if is_constant(name, frozen_teacher=False)} == inputs


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("probe/student/linear", (0, 1)),
        ("probe@mnist/input/knn", (0, 1)),
        ("train/accuracy", (0, 1)),
        ("test/accuracy", (0, 1)),
        ("train/kl", (0, math.inf)),
        ("distance/encoder/from_init", (0, math.inf)),
        ("angle/projector/from_teacher", (0, 180)),
        ("barrier/test/error", (0, 1)),
        ("barrier_line/train/loss", (0, math.inf)),
        ("ends/test/accuracy", (0, 1)),
        ("ends/cosine_aligned", (-1, 1)),
        ("ends/permuted", (0, 1)),
        ("ends/l2", (0, math.inf)),
        ("features/teacher/effective_rank", (0, math.inf)),
        ("features/student/dead_units", (0, 1)),
        ("features/student/cosine_teacher", (-1, 1)),
        ("curvature/residual_1", (0, math.inf)),
        ("curvature/trace_error", (0, math.inf)),
        ("curvature/eigenvalue_1", (-math.inf, math.inf)),
        ("layers/student/cosine_01", (-1, 1)),
        ("layers/input/separability", (0, 1)),
        ("layers/teacher/log_condition_embedding", (0, math.inf)),
        ("of my own", (-math.inf, math.inf)),
    ],
)
def test_what_metrics_can_be(name: str, bounds: tuple[float, float]) -> None:
    assert metric_bounds(name) == bounds


@pytest.mark.parametrize("kind", ["distill", "supervise"])
def test_bounds_are_known_of_all_that_a_run_logs(kind: str) -> None:
    objective = {"objective": {"name": "cross_entropy"}}
    values = {"kind": kind, "data": {"name": "mnist"}, "encoder": {"name": "vgg11"}, **objective}
    spec = RunSpec.model_validate(
        {**values, "probe": {"statistics": True, "layers": {}, "also": ["cifar10"], "ridge": True}}
    )
    assert [name for name in spec.logged if math.isinf(metric_bounds(name)[0])] == []


def test_what_differences_can_be() -> None:
    assert difference_bounds((0.0, 1.0)) == (-1.0, 1.0)
    assert difference_bounds((0.0, math.inf)) == (-math.inf, math.inf)
