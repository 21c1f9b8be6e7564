"""No value is taken for one of another type: every field of every part of a file, found by itself."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from rt_scale.plan.costs import PriceSheet
from rt_scale.spec.document import build, build_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.training import DistillSpec, SuperviseSpec
from rt_scale.spec.grid import expand
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec
from rt_scale.spec.yaml_files import parse_yaml

PARSED = {"lr", "weight_decay", "momentum", "temperature", "center", "every", "freeze_last", "stop", "grace", "parts"}
"""Fields whose text is parsed: schedules, durations, bottlenecks; they have tests of their own."""


def types_of(annotation: Any) -> set[Any]:
    """What an annotation takes, lists aside; of a Literal the types of its values."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) is Annotated:
        return types_of(get_args(annotation)[0])
    inner = [each for each in get_args(annotation) if each is not Ellipsis]
    return set().union(*map(types_of, inner)) if inner else {annotation}


def fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[type[BaseModel], str, set[Any]]]:
    """Every field of ``model`` and of its parts, with its types."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        types = types_of(field.annotation)
        for inner in types:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, seen)
        yield model, name, types


FIELDS = [each for model in (DistillSpec, SuperviseSpec, SweepSpec, PriceSheet) for each in fields(model, set())]
SIMPLE = {int, float, bool, str}
CASES = [
    pytest.param(model, name, types & SIMPLE, id=f"{model.__name__}.{name}")
    for model, name, types in dict.fromkeys((model, name, frozenset(types)) for model, name, types in FIELDS)
    if types & SIMPLE and name not in PARSED and Any not in types
]


def is_refused(model: type[BaseModel], name: str, value: Any) -> bool:
    """Whether the field alone refuses that value, or a list of it, whatever the rest of its part would say."""
    for given in (value, [value], [value, value]):
        try:
            model.model_validate({name: given})
        except ValidationError as error:
            if not any(problem["loc"][:1] == (name,) for problem in error.errors()):
                return False
        else:
            return False
    return True


def test_every_part_of_a_file_is_looked_at() -> None:
    found = {(model.__name__, name) for model, name, _ in FIELDS}
    assert len(CASES) > 80
    for each in (
        ("ProbeSpec", "knn"),
        ("BlurSpec", "sigma"),
        ("OptunaSpec", "runs"),
        ("LaunchSpec", "pack"),
        ("Price", "gpus"),
    ):
        assert each in found


@pytest.mark.parametrize(("model", "name", "types"), CASES)
def test_a_field_takes_values_of_its_own_type_alone(model: type[BaseModel], name: str, types: frozenset[Any]) -> None:
    wrong: list[Any] = []
    if bool not in types:
        wrong += [True, False]
    if not types & {int, float}:
        wrong += [0, 1, 1.0, 0.0]
    if str not in types:
        wrong += ["1", "1.0", "yes", "true", "on", ""]
    if float not in types:
        wrong += [0.5, 1.25, 1e30]
    assert [value for value in wrong if not is_refused(model, name, value)] == []


@pytest.mark.parametrize(
    ("model", "name"),
    [case.values[:2] for case in CASES if int in case.values[2] and "seed" not in str(case.id).lower()],
)
def test_what_is_counted_has_a_limit(model: type[BaseModel], name: str) -> None:
    assert is_refused(model, name, 2**63)


SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("probe: {knn: true}", ["probe.knn", "a whole number is expected, but true was given"]),
        ("probe: {knn: '5'}", ["probe.knn", "a whole number is expected, but '5' was given"]),
        ("probe: {knn: 1_0}", ["probe.knn", "'1_0' was given"]),
        ("probe: {knn: 5.5}", ["probe.knn", "a whole number is expected, but 5.5 was given"]),
        ("student: {alpha: off}", ["student.alpha", "a number is expected, but 'off' was given"]),
        ("student: {alpha: 1:30}", ["student.alpha", "'1:30' was given"]),
        ("probe: {linear: 0}", ["probe.linear", "true or false is expected, but 0 was given"]),
        ("probe: {linear: yes}", ["probe.linear", "true or false is expected, but 'yes' was given"]),
        ("projector: {hidden: [true]}", ["projector.hidden", "a whole number is expected, but true was given"]),
        ("projector: {hidden: 8}", ["projector.hidden", "a list is expected, but 8 was given"]),
        ("train: {optimizer: {lr: true}}", ["train.optimizer.lr", "True"]),
        ("train: {optimizer: adam}", ["train.optimizer", "a mapping is expected, but 'adam' was given"]),
        ("data: {name: 7}", ["data.name", "text (quoted", "but 7 was given"]),
        ("projector: {parts: {weight_norm_1: 1}}", ["projector.parts", "true or false"]),
        ("data: {name: gaussian, size: 8, samples: 9, channels: true}", ["data.channels", "true was given"]),
    ],
)
def test_the_words(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_run(SMALL | parse_yaml(text, "x"), "spec.yaml")
    for word in words:
        assert word in str(caught.value)


def test_a_float_that_is_whole_is_an_integer_and_the_same_run() -> None:
    one = RunSpec.model_validate({**SMALL, "projector": {"hidden": [16.0]}, "train": {"epochs": 1e2}})
    two = RunSpec.model_validate({**SMALL, "projector": {"hidden": [16]}, "train": {"epochs": 100}})
    assert one.hash == two.hash
    noise = {"name": "gaussian", "size": 8, "samples": 9, "channels": 3.0}
    assert type(RunSpec.model_validate({**SMALL, "data": noise, "probe": {"also": ["digits"]}}).data.channels) is int


@pytest.mark.parametrize("axis", ["[off, on]", "[false, true]", "['0', '1']", "[0, false]"])
def test_an_axis_of_no_numbers_is_refused(axis: str) -> None:
    sweep = SweepSpec.model_validate({"name": "s", "base": SMALL, "axes": {"student.alpha": parse_yaml(axis, "x")}})
    with pytest.raises(InputError, match=r"student\.alpha: a number is expected"):
        expand(sweep)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": {"student.alpha": {"linspace": [True, 1, 3]}}},
        {"axes": {"student.alpha": {"linspace": [0, 1, True]}}},
        {"axes": {"student.alpha": {"logspace": [0, "1", 3]}}},
        {"axes": {"projector.out_dim": {"pow2": [False, 3]}}},
        {"axes": {"projector.out_dim": {"pow2": [0, 1.5]}}},
    ],
)
def test_what_makes_an_axis_are_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"needs (pow2|linspace|logspace)"):
        expand(SweepSpec.model_validate({"name": "s", "base": SMALL, **changes}))


def test_a_count_that_is_written_as_a_float_makes_the_same_axis() -> None:
    written = [{"linspace": [0, 1, 1e1]}, {"linspace": [0, 1, 10]}]
    points = [
        expand(SweepSpec.model_validate({"name": "s", "base": SMALL, "axes": {"student.alpha": axis}}))
        for axis in written
    ]
    assert [point.spec.hash for point in points[0]] == [point.spec.hash for point in points[1]]


@pytest.mark.parametrize("seeds", [True, [False], [True, 2], "3", [1.5], 2.5, None, {}, 10**30, [[1]], ["a"], [None]])
def test_seeds_are_whole_numbers(seeds: Any) -> None:
    with pytest.raises(ValidationError, match="seeds must be a number of at least 1 and at most 1,000,000,000"):
        SweepSpec.model_validate({"name": "s", "base": SMALL, "seeds": seeds})


def test_seeds_may_be_written_as_floats() -> None:
    assert SweepSpec.model_validate({"name": "s", "base": SMALL, "seeds": 3.0}).seeds == 3
    assert SweepSpec.model_validate({"name": "s", "base": SMALL, "seeds": [2.0, 5]}).seeds == [2, 5]


PRICE = {"name": "m", "gpus": 0, "cpus": 1, "on_demand": 1.0, "currency": "EUR", "source": "a page"}


@pytest.mark.parametrize("date", ["2024-13-45", "yesterday", 20240113, 1.5, True, "2024-01-31T12:00:00"])
def test_a_day_is_one_of_the_calendar(date: Any) -> None:
    with pytest.raises(InputError, match=r"prices\.0\.date"):
        build(PriceSheet, {"prices": [{**PRICE, "date": date}]}, "prices.yaml")


def test_a_day_is_written_as_text() -> None:
    (price,) = build(PriceSheet, {"prices": [{**PRICE, "date": "2024-01-31"}]}, "prices.yaml").prices
    assert price.date == datetime.date(2024, 1, 31)
