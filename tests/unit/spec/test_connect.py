"""Specs of the kind connect: both forms of the ends, what they must share, axes inside them."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rt_scale.plugins import Names
from rt_scale.spec.document import build_run, own_run
from rt_scale.spec.errors import InputError
from rt_scale.spec.experiments.connect import ConnectSpec
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.grid import Point, expand
from rt_scale.spec.metrics import metric_bounds
from rt_scale.spec.run import RunSpec, SeedSpec, all_runs
from rt_scale.spec.schedule import parse
from rt_scale.spec.schema import run_schema, sweep_schema
from rt_scale.spec.sweep import SweepSpec
from tests.unit.spec.sweep_files import hashes, runs

RUN: dict[str, Any] = {
    "kind": "supervise",
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"out_dim": 10},
}
FAMILY: dict[str, Any] = {"run": RUN, "vary": "seeds.order", "values": [1, 2, 3]}


def connect(ends: Any = FAMILY, **fields: Any) -> ConnectSpec:
    spec = build_run(own_run({"kind": "connect", "ends": ends, **fields}, Names()), "The spec")
    assert isinstance(spec, ConnectSpec)
    return spec


def order(seed: int, **changes: Any) -> dict[str, Any]:
    return {**RUN, "seeds": {"order": seed}, **changes}


def test_a_family_is_the_list_that_it_stands_for() -> None:
    written = connect([{"run": order(seed)} for seed in (1, 2, 3)])
    assert connect() == written
    assert connect().name == written.name
    assert connect().canonical() == written.canonical()
    assert RunSpec.model_validate(written.canonical()) == written
    assert [end.run.seeds.order for end in written.ends] == [1, 2, 3]
    assert written.dependencies == tuple(end.run for end in written.ends)
    inits = connect({**FAMILY, "vary": "seeds.student", "take": "teacher"})
    assert [(end.take, end.run.seeds.student) for end in inits.ends] == [("teacher", n) for n in (1, 2, 3)]
    rates = connect({**FAMILY, "vary": "train.optimizer.lr", "values": [0.1, 0.2]})
    assert [end.run.train.optimizer.lr for end in rates.ends] == [0.1, 0.2]


def test_every_field_is_in_the_name() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"points": 3}, {"splits": ["test"]}, {"statistics": "batch"}, {"estimation_images": 100}, {"images": 100},
        {"align": "weights"}, {"ends": {**FAMILY, "values": [1, 2]}}, {"ends": {**FAMILY, "take": "init"}},
    ]  # fmt: skip
    assert len({connect(**{"ends": FAMILY, **change}).name for change in changes}) == len(changes)
    assert connect(splits=["train", "test"]).name == connect().name


def test_lines_and_networks() -> None:
    spec = connect(points=5)
    assert spec.pairs == [(0, 1), (0, 2), (1, 2)]
    assert spec.steps == 3 + 3 * 3
    assert connect(points=2).steps == 3
    assert spec.data_sets == ("digits",)
    assert spec.probes == ()
    assert "3 lines of 5 points" in spec.title
    assert "interpolated" in connect(statistics="interpolated").title
    assert "aligned" in connect(align="weights").title


@pytest.mark.parametrize(
    ("changes", "statistics", "estimates"),
    [
        ({}, "estimated", False),
        ({"encoder": {"name": "convnet_4_1", "norm": "batch"}}, "estimated", True),
        ({"encoder": {"name": "convnet_4_1", "norm": "batch"}}, "batch", False),
        ({"projector": {"out_dim": 10, "batch_norm": True}}, "estimated", True),
    ],
)
def test_statistics_are_estimated_where_there_are_some(
    changes: dict[str, Any], statistics: str, estimates: bool
) -> None:
    spec = connect({**FAMILY, "run": {**RUN, **changes}}, statistics=statistics)
    assert spec.estimates is estimates


def test_shapes_are_of_a_point() -> None:
    same = [
        connect(points=3), connect({**FAMILY, "values": [4, 5]}),
        connect({**FAMILY, "run": {**RUN, "student": {"alpha": 0.5}}}),
    ]  # fmt: skip
    other = [connect(images=100), connect(splits=["test"]), connect({**FAMILY, "run": {**RUN, "data": {"name": "m"}}})]
    assert {spec.shape for spec in same} == {connect().shape}
    assert len({spec.shape for spec in [connect(), *other]}) == 4


def test_what_is_logged_has_bounds() -> None:
    logged = connect(splits=["test"], align="weights").logged
    assert {"barrier/test/error", "barrier_line/test/loss", "ends/test/accuracy", "ends/permuted"} < set(logged)
    assert not [name for name in logged if "train" in name or metric_bounds(name)[0] < -1]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"ends": [{"run": RUN}]}, ["1 network", "two ends"]),
        ({"ends": {**FAMILY, "values": [1]}}, ["1 network", "two ends"]),
        ({"ends": []}, ["0 networks"]),
        ({"ends": [{"run": RUN}, {"run": RUN}]}, ["ends 0 and 1 are one network"]),
        ({"ends": {**FAMILY, "values": [1, 2, 1]}}, ["ends 0 and 2 are one network"]),
        ({"ends": [{"run": RUN}, {"run": order(1, encoder={"name": "convnet_8_1"})}]}, ["encoder", "architecture"]),
        ({"ends": [{"run": RUN}, {"run": order(1, projector={"out_dim": 11})}]}, ["projector", "architecture"]),
        ({"ends": [{"run": RUN}, {"run": order(1, precision="float64")}]}, ["precision", "float64"]),
        ({"ends": [{"run": RUN}, {"run": order(1, data={"name": "mnist"})}]}, ["digits", "mnist", "one data set"]),
        ({"ends": {**FAMILY, "vary": "data.size", "values": [8, 16]}}, ["sizes 8 and 16"]),
        ({"ends": {**FAMILY, "run": {**RUN, "kind": "distill"}}}, ["end 0", "distill", "labels"]),
        ({"ends": {**FAMILY, "run": {**RUN, "kind": "connect"}}}, ["'connect' is not known", "supervise"]),
        ({"ends": {**FAMILY, "vary": "seeds.ordr"}}, ["ends", "vary", "seeds.ordr", "'seeds.order'"]),
        ({"ends": {**FAMILY, "values": [1, "a"]}}, ["ends.run.seeds.order", "'a'"]),
        ({"ends": {**FAMILY, "valus": [1]}}, ["ends.valus", "'values'"]),
        ({"ends": {**FAMILY, "run": {**RUN, "dta": {}}}}, ["ends.run.dta", "'data'"]),
        ({"ends": [{"run": RUN}, {"run": {**RUN, "dta": {}}}]}, ["ends.1.run.dta", "'data'"]),
        ({"ends": [{"run": RUN}, {"rum": RUN}]}, ["ends.1.rum", "'run'"]),
        ({"ends": 3}, ["ends", "list"]),
        ({"points": 1}, ["points", "greater than or equal to 2"]),
        ({"statistics": "mean"}, ["statistics", "estimated, interpolated, batch"]),
        ({"splits": []}, ["splits"]),
        ({"splits": ["test", "test"]}, ["splits", "once"]),
        ({"statistics": "batch", "estimation_images": 10}, ["estimation_images", "leave it out"]),
        ({"align": "activations"}, ["align", "none, weights"]),
        ({"images": 0}, ["images"]),
    ],
)
def test_what_is_no_line_is_refused(document: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        connect(**document)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


def test_training_images_must_be_one_set_where_they_are_used() -> None:
    subsets = {"run": {**RUN, "data": {"name": "digits", "samples": 100}}, "vary": "seeds.data", "values": [1, 2]}
    assert connect({**FAMILY, "vary": "seeds.data"}).steps, "all images, in other orders"
    assert connect(subsets, splits=["test"], statistics="interpolated").steps
    for fields in ({"splits": ["test"]}, {"statistics": "batch"}):
        with pytest.raises(InputError, match=r"different images.*seeds\.order"):
            connect(subsets, **fields)


def sweep(**fields: Any) -> list[Point]:
    document = {"name": "s", "base": {"kind": "connect", "ends": FAMILY, "points": 3}, **fields}
    assert Draft202012Validator(sweep_schema()).is_valid(document)
    return expand(SweepSpec.model_validate(document))


def test_axes_reach_into_the_ends() -> None:
    first = sweep(axes={"ends.run.student.alpha": [0.0, 0.5], "ends.values": [[1, 2], [1, 2, 3]]}, seeds=2)
    assert len(first) == 8
    ends = [(len(spec.ends), spec.ends[0].run.student.alpha, spec.ends[0].run.seeds.teacher)
            for point in first if isinstance(spec := point.spec, ConnectSpec)]  # fmt: skip
    assert ends[:4] == [(2, 0.0, 0), (3, 0.0, 0), (2, 0.5, 0), (3, 0.5, 0)]
    assert {seed for *_, seed in ends[4:]} == {1}
    assert first[0].configuration == "alpha=0,values=1+2"
    assert first[0].spec.configuration_hash == first[4].spec.configuration_hash


def test_the_moment_of_the_fork_is_an_axis() -> None:
    """Instability analysis (Frankle et al. 2020): runs of one start that part after so much of training."""
    fork = {"run": {"same_but": {"train": {"stop": "1ep"}}}, "take": "student"}
    base = {"kind": "connect", "ends": {**FAMILY, "run": {**RUN, "student": {"start_from": fork}}}}
    stop = "ends.run.student.start_from.run.same_but.train.stop"
    points = sweep(base=base, axes={stop: ["1ep", "2ep"]}, seeds=[5])
    for point, epochs in zip(points, ("1ep", "2ep"), strict=True):
        assert isinstance(point.spec, ConnectSpec)
        starts = {start.run.name: start.run for end in point.spec.ends for start in end.run.starts}
        (trunk,) = starts.values()
        assert (trunk.train.stop, trunk.seeds.student, trunk.seeds.order) == (epochs, 5, None)
        assert [end.run.seeds.order for end in point.spec.ends] == [1, 2, 3]
        assert [run.name for run in all_runs([point.spec])].index(trunk.name) == 0
        assert len(all_runs([point.spec])) == 5


@pytest.mark.parametrize(
    ("axis", "words"),
    [("ends.run.student.alhpa", "student.alpha"), ("ends.runs", "ends.run"), ("ends.vari", "ends.vary")],
)
def test_unknown_axes_are_named(axis: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        expand(
            SweepSpec.model_validate({"name": "s", "base": {"kind": "connect", "ends": FAMILY}, "axes": {axis: [1]}})
        )


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({"kind": "connect", "ends": FAMILY}, True),
        ({"kind": "connect", "ends": [{"run": RUN}, {"run": RUN, "take": "init"}]}, True),
        ({"kind": "connect"}, False),
        ({"kind": "connect", "ends": {**FAMILY, "valus": []}}, False),
        ({"kind": "connect", "ends": [{"run": {**RUN, "dta": {}}}]}, False),
        ({"data": {"name": "digits"}}, False),
    ],
)
def test_editors_know_both_forms(document: dict[str, Any], valid: bool) -> None:
    assert Draft202012Validator(run_schema()).is_valid(document) is valid


def test_it_starts_from_whole_runs() -> None:
    assert all(isinstance(run, TrainingSpec) for run in connect().dependencies)


@pytest.mark.parametrize("folder", ["paper", "small"])
def test_figure_9_goes_from_a_fresh_start_and_from_a_student(folder: str) -> None:
    fresh, student = [], []
    for spec in runs(folder, "fig9"):
        assert isinstance(spec, ConnectSpec)
        (student if spec.run.starts else fresh).append(spec)
        assert (spec.statistics, spec.splits, spec.align) == ("estimated", ("test", "train"), "none")
    assert len(fresh) == len(student) == 3
    for one, other in zip(fresh, student, strict=True):
        (start,) = other.run.starts
        assert (start.take, start.part) == ("student", "encoder")
        assert start.run.seeds == SeedSpec(**dict.fromkeys(("teacher", "student", "data", "probe"), one.seeds.data))
        alone = other.run.model_copy(update={"student": one.run.student})
        assert alone == one.run, "nothing else differs"
        assert start.run.encoder == one.run.encoder
        if folder == "paper":
            assert start.run.hash in hashes("paper", "fig1")


def test_figure_9_has_the_papers_recipe() -> None:
    """Appendix E.5, table 'IMP training', and section 6: five orders; the authors' 50 points."""
    for spec in runs("paper", "fig9"):
        assert isinstance(spec, ConnectSpec)
        assert (len(spec.ends), spec.points, len(spec.pairs), spec.images) == (5, 50, 10, None)
        train, augment = spec.run.train, spec.run.augment
        assert (train.epochs, train.batch_size, augment.kind, augment.padding, augment.flip) == (
            160, 256, "crop_flip", 4, 0.5,
        )  # fmt: skip
        assert (train.optimizer.name, train.optimizer.momentum, train.optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
        rate = parse(train.optimizer.lr)
        rates = [rate.value(epoch * 196, 160 * 196, 196) for epoch in (0, 79, 80, 119, 120, 159)]
        assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
