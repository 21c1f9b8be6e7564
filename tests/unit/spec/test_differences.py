from __future__ import annotations

from typing import Any

import pytest
import torch

from rt_scale.models.encoders import build_encoder
from rt_scale.spec.differences import (
    differences,
    equal_networks,
    parse_condition,
    points_of,
    spec_fields,
    telling_keys,
    told_apart,
)
from rt_scale.spec.document import merged
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
SEEDS = ("teacher", "student", "data", "probe")


def run(seed: int = 0, **changes: Any) -> RunSpec:
    return RunSpec.model_validate(merged({**BASE, "seeds": dict.fromkeys(SEEDS, seed)}, changes))


def labels(*specs: RunSpec) -> list[str]:
    return [point.label for point in told_apart(points_of(specs))]


def test_columns_that_tell_nothing_more_are_left_out() -> None:
    rows = [{"a": 1, "b": 1, "c": 5}, {"a": 2, "b": 2, "c": 5}, {"a": 2, "b": 3, "c": 5}]
    assert telling_keys(["a", "b", "c"], rows) == ["a", "b"]
    assert telling_keys(["a", "c"], rows, beside=["b"]) == []


def test_single_runs_are_named_by_what_differs() -> None:
    a, b = run(student={"alpha": 0.5}), run(student={"alpha": 1}, train={"epochs": 7})
    points = points_of([a, b])
    assert [point.values for point in points] == [
        {"student.alpha": 0.5, "train.epochs": 100}, {"student.alpha": 1.0, "train.epochs": 7},
    ]  # fmt: skip
    assert [point.spec for point in points] == [a, b]
    assert labels(a, b) == ["alpha=0.5,seed=0", "alpha=1,seed=0"]
    assert [point.label for point in told_apart(points, ["train.epochs"])] == [
        "train.epochs=100,seed=0", "train.epochs=7,seed=0"
    ]  # fmt: skip
    third = labels(a, b, run(student={"alpha": 1}))
    assert third[1:] == ["alpha=1,train.epochs=7,seed=0", "alpha=1,train.epochs=100,seed=0"]


def test_a_run_alone_and_runs_that_differ_in_seeds_are_named_by_what_they_are() -> None:
    what = "data.name=digits,encoder.name=convnet_8_2,alpha=1e-10"
    assert labels(run(3)) == [f"{what},seed=3"]
    assert labels(run(3), run(4)) == [f"{what},seed=3", f"{what},seed=4"]


def test_seeds_that_vary_alone_are_axes() -> None:
    first, second = run(3, seeds={"data": 5}), run(4)
    assert points_of([first, second])[0].values == {
        "seeds.teacher": 3, "seeds.student": 3, "seeds.data": 5, "seeds.probe": 3,
    }  # fmt: skip
    assert len(set(labels(first, second))) == 2
    assert labels(run(seeds={"data": 5}), run(seeds={"data": 6}))[0].endswith("seed=5")


def test_runs_that_differ_in_their_order_alone() -> None:
    runs = [run(3), run(3, seeds={"order": 7}), run(3, seeds={"order": 8})]
    assert differences(runs) == {"seeds.order": [None, 7, 8]}
    assert [(point.values, point.seed) for point in points_of(runs)] == [({"seeds.order": n}, 3) for n in (3, 7, 8)]
    assert labels(run(3), run(4)) == labels(run(3), run(4, seeds={"order": 4}))
    apart = points_of([run(3), run(4), run(4, seeds={"order": 3})])
    assert [(point.values, point.seed) for point in apart] == [
        ({"seeds.order": order}, seed) for order, seed in ((3, 3), (4, 4), (3, 4))
    ]


@pytest.mark.parametrize(
    ("seeds", "order", "holds"), [({"data": 3}, 3, True), ({"data": 3, "order": 0}, 3, False), ({"order": 1}, 1, True)]
)
def test_an_order_that_follows_the_data_meets_a_condition_on_it(seeds: dict[str, int], order: int, holds: bool) -> None:
    assert parse_condition(f"seeds.order={order}").holds(run(seeds=seeds).canonical()) is holds


def test_a_run_to_start_from_is_one_value_for_all_seeds() -> None:
    starts = [run(seed, teacher={"start_from": {"run": run(seed).model_dump()}}) for seed in (0, 1)]
    fields = [spec_fields(spec.fields) for spec in starts]
    assert fields[0]["teacher.start_from"] == fields[1]["teacher.start_from"]
    assert fields[0]["seeds.data"] != fields[1]["seeds.data"]
    one, other = run(), run(teacher={"start_from": {"run": run(1).model_dump()}})
    assert labels(one, other)[0] == "start_from=none,seed=0"
    assert labels(one, other)[1].startswith("start_from=student of ")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("student.alpha=0.5", True), ("student.alpha = 5e-1", True), ("student.alpha!=0.5", False),
        ("student.alpha<0.5", False), ("student.alpha<=0.5", True), ("student.alpha>0.4", True),
        ("student.alpha>=0.6", False), ("encoder.name=convnet_8_2", True), ("encoder.name!=vgg11", True),
        ("encoder.name>3", False), ("train.epochs=100.0", True), ("encoder.attention=tokens", True),
        ("teacher.update=ema", False), ("teacher.start_from=null", True), ("probe.standardized=1", False),
        ("probe.standardized=true", True), ("projector.hidden=[2048, 2048]", True),
        ("teacher.start_from.take=init", False),
    ],
)  # fmt: skip
def test_conditions_on_fields_of_a_recorded_spec(condition: str, holds: bool) -> None:
    assert parse_condition(condition).holds(run(student={"alpha": 0.5}).canonical()) is holds


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("ends.run.student.alpha=0.5", True),
        ("ends.run.student.alpha!=0.5", False),
        ("ends.run.seeds.order=3", True),  # of one of them
        ("ends.run.seeds.order=1", True),  # as data
        ("ends.run.seeds.order=2", False),
        ("ends.run.teacher.momentum=0.996", True),  # a default that is left out
        ("ends.take=student", True),
        ("ends.run.student.start_from.run.train.epochs=7", True),
        ("origin.run.student.alpha=0.5", False),  # which such a run does not have
        ("points=50", True),
    ],
)
def test_conditions_on_the_networks_of_an_analysis(condition: str, holds: bool) -> None:
    distilled = {"data": {"name": "digits"}, "encoder": {"name": "convnet_4_1"}, "train": {"epochs": 7}}
    student = {"start_from": {"run": distilled, "part": "encoder"}}
    end = {**distilled, "kind": "supervise", "projector": {"hidden": [], "out_dim": 10}, "seeds": {"data": 1}}
    ends = [{"run": {**end, "student": {"alpha": 0.5}, "seeds": {"data": 1, "order": 3}}}]
    ends += [{"run": {**end, "student": {"alpha": 0.5}}}]
    if ".start_from." in condition:
        ends = [{"run": {**each["run"], "student": student}} for each in ends]
    spec = RunSpec.model_validate({"kind": "connect", "ends": ends})
    assert parse_condition(condition).holds(spec.canonical()) is holds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("student.alpha", "no condition; write e.g. --where student.alpha=0.5"),
        ("student.alph=1", r"Unknown field of --where 'student.alph'\. Did you mean 'student.alpha'"),
        ("student.alpha<high", "compares numbers"),
        ("student.alpha<true", "compares numbers"),
        ("student.alpha=[", "not YAML"),
    ],
)
def test_what_is_no_condition(condition: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_condition(condition)


def test_equal_networks_under_two_names_are_told() -> None:
    names = [("convnet_32_3", 2), ("convnet_64_3", 1), ("convnet_64_2", 1), ("mlp_64_3", 1), ("vgg11", 0.5)]
    runs = [run(encoder={"name": name, "width": width}, data={"name": "mnist", "size": 32}) for name, width in names]
    (told,) = equal_networks(runs)
    assert told.startswith("convnet_32_3 at width 2 and convnet_64_3 are one network")
    drawn = []
    for spec in runs[:3]:
        torch.manual_seed(0)
        encoder = build_encoder(spec.encoder, channels=3, size=32)
        drawn.append(torch.cat([each.flatten() for each in encoder.parameters()]))
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape
    assert equal_networks([runs[0], runs[0], run(encoder={"name": "convnet_64_3", "norm": "batch"})]) == []


def test_of_runs_that_differ_in_seeds_alone_a_seed_may_be_the_axis() -> None:
    specs = [run(3), run(4)]
    assert [point.values for point in points_of(specs, seeds_apart=True)] == [
        {"seeds.teacher": 3}, {"seeds.teacher": 4}
    ]  # fmt: skip
    assert points_of([*specs, run(4, train={"epochs": 7})], seeds_apart=True)[0].values == {"train.epochs": 100}
    assert list(differences(specs)) == [f"seeds.{name}" for name in SEEDS]
