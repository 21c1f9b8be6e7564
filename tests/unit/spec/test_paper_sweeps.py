"""The sweep files of the paper's experiments: what they fix, what they share, and that their heads are true."""

from __future__ import annotations

import json
import re
from itertools import combinations, product
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.networks import PAPER
from rt_scale.spec.run import RunSpec, SeedSpec
from tests.unit.spec.sweep_files import ANALYSES, FILES, ORDER, ROOT, hashes, head, load, runs, values

BOTH = {"resnet18", "vgg11"}
AS_PUBLISHED = ("fig1_as_published", "fig3_as_published", "fig10_as_published")
"""Twins without weight norm in the last layer."""
CIFAR5M = (500, 1_000, 2_000, 5_000, 10_000, 15_000, 50_000, 100_000, 200_000, 750_000, 1_000_000, 5_000_000)
NOISE = (500, 5_000, 50_000, 150_000)


def default(encoder: str, seed: int) -> RunSpec:
    """The run that most experiments have: CIFAR-10, 150 epochs, all else as the paper says and as is the default."""
    seeds = dict.fromkeys(("teacher", "student", "data", "probe"), seed)
    given: dict[str, Any] = {"data": {"name": "cifar10"}, "encoder": {"name": encoder}, "train": {"epochs": 150}}
    return RunSpec.model_validate({**given, "seeds": seeds})


def test_there_is_a_file_and_a_twin_for_each_experiment() -> None:
    for folder, more in (("paper", {"teachers"}), ("small", {"instability", "fig1_half", *AS_PUBLISHED})):
        assert {path.stem for path in (ROOT / "sweeps" / folder).iterdir()} == {*ORDER, *ANALYSES, *more}


def test_the_page_lists_them_in_the_order_in_which_they_are_counted() -> None:
    page = (ROOT / "docs" / "paper.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(../sweeps/paper/(\w+)\.yaml\) .* (\d+) \| ([\d.]+) \|$", page, re.MULTILINE)
    every = [*ORDER, *ANALYSES, "teachers"]
    hours = {name: head("paper", name)["Expected"].partition(" ")[0] for name in every}
    assert rows == [(name, name, str(len(runs("paper", name))), hours[name]) for name in every]


@pytest.mark.parametrize(("folder", "name"), [*FILES, *product(("paper", "small"), ANALYSES), ("paper", "teachers")])
def test_heads_are_true(folder: str, name: str) -> None:
    sweep, points = load(folder, name)
    assert sweep.name == (name if folder == "paper" else f"small_{name}")
    assert sweep.experiment == name
    assert {point.seed for point in points} == set(range(5 if (folder, name) == ("paper", "fig8") else 3))
    words = head(folder, name)
    every = [*ORDER, *ANALYSES, "teachers"]
    before = set().union(*(hashes(folder, other) for other in every[: every.index(name)]))
    new = len(hashes(folder, name) - before)
    assert words["Runs"] == f"{len(points)}, of them {new} in no file before this one."
    assert words["Run"] == f"rt-scale sweep sweeps/{folder}/{name}.yaml"
    if folder == "paper":
        assert {"Claim", "Paper"} <= set(words)
        assert re.fullmatch(
            rf"[\d.]+ GPU-hours: rt-scale plan sweeps/paper/{name}\.yaml --tflops 60", words["Expected"]
        )
    else:
        assert words["Seen"]
        minutes = re.match(r"about (\d+) minutes on 2 CPU cores \(", words["Expected"])
        assert minutes is not None
        assert int(minutes[1]) <= (30 if name == "fig8" else 10)


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_data_sets_are_known_and_encoders_take_them(folder: str, name: str) -> None:
    jpeg = {"cifar10_jpeg": DATASETS["cifar10"]} if folder == "small" else {}
    known = {**DATASETS, **jpeg}
    for spec in runs(folder, name):
        assert {spec.data.name, *spec.probe.also} <= {*known, GAUSSIAN}
        info = known.get(spec.data.name, DATASETS["cifar10"])
        if spec.data.name != GAUSSIAN:
            assert (spec.data.samples or 0) <= info.train
        size, encoder = spec.data.size or info.size, spec.encoder
        described = parse_encoder(encoder.name)
        described.check_image(channels=info.channels, size=size, norm=encoder.norm, width=encoder.width)
        assert {known[other].channels for other in spec.probe.also} <= {info.channels}
        for side in {known[other].size for other in spec.probe.also if spec.probe.also_size == "own"}:
            assert not described.design.one_size
            described.check_image(channels=info.channels, size=side, norm=encoder.norm, width=encoder.width)


@pytest.mark.parametrize("name", ORDER)
def test_everything_else_is_the_default(name: str) -> None:
    varied = {
        "fig3": {"student"}, "fig10": {"projector"}, "fig12": {"projector"}, "fig18": {"teacher"}, "ema": {"teacher"},
    }.get(name, set())  # fmt: skip
    for seed, spec in ((point.seed, point.spec) for point in load("paper", name)[1]):
        assert spec.seeds == SeedSpec(**dict.fromkeys(("teacher", "student", "data", "probe"), seed))
        plain = default("vgg11", seed)
        for part in {"kind", "projector", "teacher", "student", "objective", "augment", "precision"} - varied:
            assert getattr(spec, part) == getattr(plain, part), part
        assert spec.train == plain.train.model_copy(update={"epochs": spec.train.epochs})
        changed = ("every", "also", "also_size", "own")
        assert spec.probe == plain.probe.model_copy(update={each: getattr(spec.probe, each) for each in changed})


def test_the_default_is_what_the_paper_says() -> None:
    """facts.md, "Method" and "Probing"; paper, appendix E."""
    spec = default("resnet18", 0)
    assert (spec.encoder.norm, default("vgg11", 0).encoder.norm) == ("batch", "none")
    assert (spec.projector.hidden, spec.projector.bottleneck, spec.projector.out_dim) == ((2048, 2048), 256, 2**16)
    assert (spec.projector.parts, spec.projector.activation, spec.projector.init) == (PAPER, "gelu", "trunc_normal")
    assert not spec.projector.batch_norm
    assert (spec.teacher.update, spec.teacher.mode, spec.teacher.temperature) == ("none", "eval", 1)
    assert (spec.student.alpha, spec.student.temperature, spec.augment.kind) == (1e-10, 1, "none")
    optimizer = spec.train.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.clip) == ("adamw", 1e-3, 0, None)
    assert (spec.train.batch_size, spec.objective.name, spec.precision) == (256, "cross_entropy", "float32")
    assert (spec.probe.linear, spec.probe.epochs, spec.probe.batch_size, spec.probe.knn) == (True, 10, 256, 20)
    assert (spec.probe.lr, spec.probe.standardized, spec.probe.own) == (1e-3, True, True)


def test_encoders_and_epochs() -> None:
    for name in ORDER:
        encoders = {"fig4_epochs": {"vgg11"}, "fig4_steps": {"vgg11"}, "tab5": set(TABLE_5)}.get(name, BOTH)
        assert values(name, "encoder.name") == encoders
        if name not in ("fig4_epochs", "fig4_steps", "fig18"):
            assert values(name, "train.epochs") == {150}
    assert values("fig4_epochs", "train.epochs") == {100}


TABLE_5 = (
    *("vgg11", "vgg13", "vgg16", "vgg19", "resnet20", "resnet56", "resnet18", "resnet34", "resnet50"),
    *("vit_tiny_shared", "vit_small_shared", "vit_medium_shared", "vit_base_shared"),
)


def test_table_5_has_13_architectures_with_the_transformers_that_were_published() -> None:
    assert len(TABLE_5) == 13
    for spec in runs("paper", "tab5"):
        assert spec.encoder.attention == ("heads" if spec.encoder.name.startswith("vit") else "tokens")
        assert spec.encoder.width == 1


def test_the_teachers_are_those_of_table_5_before_any_training() -> None:
    own = {spec.hash: spec for spec in runs("paper", "teachers")}
    assert {"0a96c335ad82eb15", "3e264901fa90dd11", "44a1ed31be4067fd"} <= set(own)  # computed in November 2026
    assert all(
        (spec.train.stop, spec.student.alpha, spec.data.name) == ("0ep", 0, "cifar10_jpeg") for spec in own.values()
    )
    architectures = {(spec.encoder.name, spec.encoder.attention) for spec in own.values()}
    assert architectures == {(spec.encoder.name, spec.encoder.attention) for spec in runs("paper", "tab5")}
    assert {spec.encoder.init for spec in own.values() if spec.encoder.attention == "heads"} == {"authors"}


def test_tables_1_to_4_have_data_sets_as_they_come() -> None:
    assert values("fig1", "data.name") == {"cifar10", "cifar100", "stl10", "tiny_imagenet"}
    assert values("fig1", "data.size") == values("fig1", "data.samples") == {None}
    assert DATASETS["tiny_imagenet"].size == 64
    assert values("tab2", "data.name") == {"tiny_imagenet"}
    assert values("tab2", "probe.also") == {("cifar10", "cifar100", "stl10")}
    assert values("tab2", "probe.also_size") == {"own"}


def test_the_teachers_of_tables_2_and_4_are_those_of_tables_1_and_3() -> None:
    """What is printed of them: hence a set that is probed on is seen as where it is distilled on."""
    numbers = json.loads((ROOT / "rt_scale/report/paper_numbers.json").read_text())["numbers"]
    keys = ("encoder", "probed", "probe")
    printed = {(each["source"], *map(each["at"].get, keys)): each.get("teacher") for each in numbers}
    for encoder, probed in product(BOTH, ("cifar10", "cifar100", "stl10")):
        for one, other, probe in (("table 1", "table 2", "linear"), ("table 3", "table 4", "knn")):
            assert printed[one, encoder, probed, probe] == printed[other, encoder, probed, probe]


def test_figure_3_has_steps_of_a_tenth_and_the_papers_stand_in_for_0() -> None:
    assert values("fig3", "student.alpha") == {1e-10, *(step / 10 for step in range(11))}


def test_figures_10_to_12() -> None:
    assert values("fig10", "projector.out_dim") == {2**power for power in range(17)}
    assert values("fig10", "projector.bottleneck") == {2**8}
    assert values("fig11", "encoder.norm") == {"batch", "instance", "group8", "layer", "none"}
    published = {
        PAPER,
        "wn/lb/-/wn/l/-",
        "-/lb/fn/-/l/fn",
        "-/lb/-/-/l/fn",
        "-/lb/-/-/l/-",
        "-/-/-/-/l/fn",
        "-/-/-/-/l/-",
    }
    assert values("fig12", "projector.parts") == published | {"-/lb/fn/-/l/-", "-/lb/-/wn/l/-"}


@pytest.mark.parametrize("name", ["fig4_epochs", "fig4_steps"])
def test_figure_4_is_probed_on_cifar10_alone(name: str) -> None:
    sizes: dict[str, set[int | None]] = {"cifar5m": set(CIFAR5M), GAUSSIAN: set(NOISE)}
    for data, samples in sizes.items():
        assert {spec.data.samples for spec in runs("paper", name) if spec.data.name == data} == samples
    for spec in runs("paper", name):
        assert spec.probe.also == ("cifar10",)
        if spec.data.name == GAUSSIAN:
            assert (spec.data.size, spec.data.sigma, spec.data.channels) == (32, 1, 3)
        else:
            assert not spec.probe.own


def test_fixed_steps_see_as_many_images_at_every_sample_size() -> None:
    for spec in runs("paper", "fig4_steps"):
        samples, every = spec.data.samples or 0, spec.probe.every or ""
        assert spec.train.epochs == 5_000_000 // samples
        assert every == ("5ep" if samples == 50_000 else "980it")
    assert 980 == 5 * -(-50_000 // 256)


def test_the_second_round_starts_from_the_default_run() -> None:
    first = [spec for spec in runs("paper", "fig18") if not spec.starts]
    second = [spec for spec in runs("paper", "fig18") if spec.starts]
    assert len(first) == len(second) == 6
    for spec in second:
        assert spec.student.start_from is None
        assert spec.teacher.start_from is not None
        assert spec.teacher.start_from.run == default(spec.encoder.name, spec.seeds.data)
        assert (spec.teacher.start_from.take, spec.teacher.start_from.part) == ("student", "network")
        assert (spec.train.epochs, spec.probe.every) == (20, "1ep")


def test_a_moving_teacher_is_an_average_as_dinos() -> None:
    found = {(spec.teacher.update, spec.teacher.momentum) for spec in runs("paper", "ema")}
    assert found == {("none", 0.996), ("ema", 0.996), ("ema", "cosine(0.996, 1.0)")}
    assert values("ema", "teacher.mode") == {"eval"}


def test_what_is_shared_is_one_run() -> None:
    """Runs that two files both have, which are run once: the six default ones, those of table 2, and n = 50,000."""
    with_default = {"fig1", "fig3", "tab5", "fig10", "fig11", "fig12", "fig18", "ema"}
    six = {default(encoder, seed).hash for encoder in BOTH for seed in range(3)}
    for one, other in combinations(ORDER, 2):
        shared = hashes("paper", one) & hashes("paper", other)
        if {one, other} <= with_default:
            assert shared == six, (one, other)
        elif (one, other) == ("fig1", "tab2"):
            assert shared == hashes("paper", "tab2")
        elif (one, other) == ("fig4_epochs", "fig4_steps"):
            assert shared == {spec.hash for spec in runs("paper", one) if spec.data.samples == 50_000}
            assert len(shared) == 6
        else:
            assert not shared, (one, other)
    assert len(set().union(*(hashes("paper", name) for name in ORDER))) == 399
