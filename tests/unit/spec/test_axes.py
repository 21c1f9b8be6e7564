"""Axes of a grid: their values, their names, and values in labels."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import axis_length, axis_names, expand, expand_axis, value_label
from rt_scale.spec.sweep import SweepSpec

BASE = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}


def sweep(**fields: Any) -> SweepSpec:
    return SweepSpec.model_validate({"name": "s", "base": BASE, **fields})


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ([1, 2], [1, 2]),
        ({"pow2": [0, 4]}, [1, 2, 4, 8, 16]),
        ({"linspace": [0, 1, 11]}, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ({"logspace": [-4, -2, 3]}, [1e-4, 1e-3, 1e-2]),
    ],
)
def test_axes_expand(axis: Any, values: list[Any]) -> None:
    assert expand_axis("x", axis) == values


def test_generated_and_listed_values_name_the_same_runs() -> None:
    generated = expand(sweep(axes={"student.alpha": {"linspace": [0, 1, 11]}}))
    listed = expand(sweep(axes={"student.alpha": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]}))
    assert [point.spec.name for point in generated] == [point.spec.name for point in listed]


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ([], "no values"),
        ({"pow": [1, 2]}, "Did you mean 'pow2'?"),
        ({"pow2": [3, 1]}, "from <= to"),
        ({"pow2": [0, 1.5]}, "whole exponents"),
        ({"linspace": [0, 1]}, "[from, to, n]"),
        ({"linspace": [0, 1, 2.5]}, "[from, to, n]"),
        ({"linspace": [0, 1, 1]}, "at least 2"),
        ({"linspace": ["a", 1, 3]}, "[from, to, n]"),
        ({"linspace": [0, float("inf"), 3]}, "[from, to, n]"),
        ({"logspace": [0, 400, 3]}, "from -300 to 300"),
        ({"pow2": [0, 1], "linspace": [0, 1, 2]}, "one of pow2, linspace, logspace"),
    ],
)
def test_bad_axes_are_refused(axis: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        expand_axis("x", axis)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("axis", "count"),
    [([1, 2, 5], 3), ({"pow2": [2, 6]}, 5), ({"linspace": [0, 1, 10**9]}, 10**9), ({"logspace": [-4, 0, 9]}, 9)],
)
def test_the_length_of_an_axis_is_known_without_its_values(axis: Any, count: int) -> None:
    assert axis_length("x", axis) == count
    with pytest.raises(InputError, match="no values"):
        axis_length("x", [])


def test_different_values_have_different_labels() -> None:
    near = [0.5, 0.12345678, 0.123456789, 1e-3]
    labels = [point.label for point in expand(sweep(axes={"student.alpha": near}))]
    assert labels == [f"alpha={text},seed=0" for text in ("0.5", "0.12345678", "0.123456789", "0.001")]


START = {"run": {"same_but": {"train": {"epochs": 40}}}, "take": "student"}


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, "none"),
        (True, "true"),
        (1, "1"),
        (1e-10, "1e-10"),
        (0.123456789, "0.123456789"),
        ("cosine(0.996, 1)", "cosine(0.996,1)"),
        ("cosine(0.996,\n\t1)", "cosine(0.996,1)"),
        ("-/lb/fn/wn/l/-", "-/lb/fn/wn/l/-"),
        ([], "none"),
        (["cifar10", "stl10"], "cifar10+stl10"),
        ([512, 512], "512+512"),
        ({"name": "sgd", "lr": 0.1}, "name:sgd;lr:0.1"),
        ({}, "none"),
        (START, "student of ec8431"),
        ({"run": START["run"]}, "student of ec8431"),
        ({**START, "take": "init"}, "init of ec8431"),
        ({**START, "part": "encoder"}, "student encoder of ec8431"),
        ({"run": "same"}, "student of same"),
        ({"mode": "eval", "start_from": START}, "mode:eval;start_from:student of ec8431"),
    ],
)
def test_a_value_in_a_label(value: Any, label: str) -> None:
    assert value_label(value) == label


def test_what_is_too_long_for_a_label_is_told_by_its_digest() -> None:
    others = [[f"a_data_set_{number}" for number in range(many)] for many in (3, 4, 5)]
    labels = [value_label(value) for value in others]
    assert labels[0] == "a_data_set_0+a_data_set_1+a_data_set_2"
    assert [len(label) for label in labels[1:]] == [6, 6]
    assert labels[1] != labels[2]
    mapping = {"name": "adamw", "lr": 0.1234567, "weight_decay": 0.1234567}
    assert len(value_label(mapping)) == 6
    assert value_label({"optimizer": mapping}) == f"optimizer:{value_label(mapping)}"


def test_a_run_to_start_from_is_short_in_labels_and_the_same_for_all_seeds() -> None:
    starts = [None, START, {**START, "run": {"same_but": {"train": {"epochs": 41}}}}]
    points = expand(sweep(axes={"teacher.start_from": starts}, seeds=2))
    first, second, third = (point.configuration for point in points[:3])
    assert (first, second) == ("start_from=none", "start_from=student of ec8431")
    assert third not in (first, second)
    assert [point.configuration for point in points[3:]] == [first, second, third]


def test_axis_names_are_short_and_unambiguous() -> None:
    assert axis_names(["student.alpha", "encoder.name"]) == {
        "student.alpha": "alpha",
        "encoder.name": "encoder.name",
    }
    assert axis_names(["train.x", "probe.x"]) == {"train.x": "train.x", "probe.x": "probe.x"}
