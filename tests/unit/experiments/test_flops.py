"""What runs compute, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.experiments.flops import (
    EFFICIENCY,
    RUN_SECONDS,
    Phase,
    Rates,
    RunWork,
    Work,
    assumed,
    count_run,
    flops,
    meta_network,
    run_length,
)
from rt_scale.probes.layers import layer_outputs
from rt_scale.spec.run import RunSpec

CIFAR, DIGITS = DATASETS["cifar10"], DATASETS["digits"]


def spec(**changes: Any) -> RunSpec:
    head = {"hidden": [16], "bottleneck": 8, "out_dim": 32}
    small = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "projector": head}
    return RunSpec.model_validate({**small, **changes})


def counted(**changes: Any) -> RunWork:
    return count_run(spec(**changes), DIGITS, {})


@pytest.mark.parametrize(("encoder", "gigaflops"), [("resnet18", 1.11), ("vgg11", 0.31)])
def test_encoders_have_the_flops_an_image_that_they_are_known_for(encoder: str, gigaflops: float) -> None:
    network = meta_network(RunSpec.model_validate({"data": {"name": "cifar10"}, "encoder": {"name": encoder}}), CIFAR)
    image = torch.empty(1, 3, 32, 32, device="meta")
    assert forward(lambda: network.encoder(image)) / 1e9 == pytest.approx(gigaflops, abs=0.006)
    embedding = torch.empty(1, network.encoder.embed_dim, device="meta")
    assert forward(lambda: network.projector(embedding)) / 1e9 == pytest.approx(0.045, abs=0.0005)


def forward(function: Callable[[], object]) -> float:
    with torch.no_grad():
        return flops(function)


def test_a_layer_is_counted_by_hand_with_its_backward_pass() -> None:
    layer, images = torch.nn.Conv2d(3, 4, 3, padding=1, device="meta"), torch.empty(2, 3, 8, 8, device="meta")
    once = 2 * 2 * 4 * 8 * 8 * 27
    assert forward(lambda: layer(images)) == once
    # Images need no gradient; those of what a layer before made would.
    assert flops(lambda: layer(images).sum().backward()) == 2 * once
    inner = images.clone().requires_grad_()
    assert flops(lambda: layer(inner).sum().backward()) == 3 * once


def test_amounts_add_up() -> None:
    both = Work(product=1.0) + Work(product=2.0) * 3 + Work(network=5, traffic=4, calls=3) * 2
    assert both == Work(network=10, product=7, traffic=8, calls=6)


def test_a_run_is_its_start_its_steps_and_its_probings() -> None:
    rates = Rates(1.0, 1.0, 1.0, 0.0, False, "")
    work = RunWork(Phase(Work(network=1)), Phase(Work(network=2)), Phase(Work(network=3), Work(product=4)))
    length = run_length(spec(train={"epochs": 7, "batch_size": 100}, probe={"every": "2ep"}), DIGITS.train)
    assert work.seconds(rates, length) == RUN_SECONDS + 1 + 105 * 2 + 5 * (3 + 4)


def test_a_step_is_both_passes_and_the_cached_teachers_logits() -> None:
    network = meta_network(spec(), DIGITS)
    images = torch.empty(256, 1, 8, 8, device="meta")
    teacher, student = forward(lambda: network(images)), flops(lambda: network(images).sum().backward())
    logits = 2 * 256 * 8 * 32
    share = DIGITS.train / 256 / 6
    assert counted().step.shared.network == pytest.approx(share * (student + logits))
    moving = counted(teacher={"update": "ema"})
    assert moving.step.shared.network == pytest.approx(share * (student + teacher))
    assert moving.start.shared.network == 0 < counted().start.shared.network
    assert moving.evaluation.shared.network == pytest.approx(2 * counted().evaluation.shared.network)


def test_without_steps_there_are_no_targets_and_a_student_that_is_its_teacher_is_not_probed() -> None:
    still, there = {"train": {"stop": "0ep"}}, {"student": {"alpha": 0.0}}
    trained, away, alone = counted(**there), counted(**still), counted(**still, **there)
    assert alone.evaluation == Phase(Work())
    assert away.evaluation == trained.evaluation
    assert away.start == alone.start
    assert alone.start.shared.network == trained.evaluation.shared.network < trained.start.shared.network
    assert counted(**still, **there, probe={"statistics": True}).evaluation.shared.network > 0


def test_a_teacher_of_another_width_is_counted_as_wide_as_it_is() -> None:
    narrow, other = {"student": {"alpha": 1.0}}, {"encoder": {"name": "convnet_8_2", "width": 4.0}}
    plain, wide, both = counted(**narrow), counted(**narrow, teacher={"width": 4.0}), counted(**narrow, **other)
    assert wide.start.shared.network == pytest.approx(both.start.shared.network)
    assert wide.evaluation == plain.evaluation != both.evaluation
    assert wide.step == plain.step  # the features are cached, and as many
    seen = {"augment": {"kind": "crop_flip", "padding": 1}}
    images = torch.empty(256, 1, 8, 8, device="meta")
    teachers = [meta_network(spec(**changes), DIGITS) for changes in ({}, other)]
    more = forward(lambda: teachers[1](images)) - forward(lambda: teachers[0](images))
    steps = [counted(**narrow, **seen, teacher=each).step.shared.network for each in ({}, {"width": 4.0})]
    assert steps[1] - steps[0] == pytest.approx(more * DIGITS.train / 256 / 6)


def test_a_supervised_run_has_no_teacher_in_its_steps_but_tests_its_classifier() -> None:
    head = {"hidden": [16], "bottleneck": 8, "out_dim": 10}
    supervised, distilled = counted(kind="supervise", projector=head), counted(projector=head)
    assert supervised.step.shared.network < distilled.step.shared.network
    assert supervised.evaluation.shared.network > distilled.evaluation.shared.network


def test_views_are_counted_as_wide_and_as_many_as_they_are() -> None:
    views = {"kind": "multicrop", "global_views": 2, "local_views": 3, "global_size": 8, "local_size": 4}
    one = counted(teacher={"update": "ema"}).step.shared
    several = counted(augment=views, objective={"pairing": "all"}).step.shared
    assert several.network == pytest.approx((3 * (2 + 3 / 4) + 2) / 4 * one.network, rel=0.05)
    more = counted(augment={**views, "local_views": 4}, objective={"pairing": "all"})
    assert more.step.shared.traffic > several.traffic


@pytest.mark.parametrize(
    "change",
    [
        {"linear": False},
        {"knn": 0},
        {"standardized": False},
        {"epochs": 5},
        {"logistic": True},
        {"ridge": True},
    ],
)
def test_every_probe_counts(change: dict[str, Any]) -> None:
    assert counted(probe=change).evaluation.alone.product != counted().evaluation.alone.product


def test_curvature_costs_three_steps_an_image_and_product() -> None:
    asked = {"images": 64, "eigenvalues": 2, "iterations": 5, "vectors": 6}
    plain, measured = counted(), counted(probe={"curvature": asked})
    extra = measured.evaluation.shared.network - plain.evaluation.shared.network
    student = 3 * (forward(lambda: meta_network(spec(), DIGITS)(torch.empty(64, 1, 8, 8, device="meta"))))
    assert extra == pytest.approx(3 * 16 * student, rel=0.05)


def test_layers_cost_a_pass_of_their_images_and_their_products() -> None:
    plain, measured = counted(), counted(probe={"layers": {"images": 64}})
    network = meta_network(spec(), DIGITS)
    images = torch.empty(64, 1, 8, 8, device="meta")
    widths = [output.shape[1] for output in layer_outputs(network.encoder, images)]
    for before, after in ((plain.start, measured.start), (plain.evaluation, measured.evaluation)):
        assert after.alone.network - before.alone.network == pytest.approx(forward(lambda: network.encoder(images)))
        products = sum(2 * 64 * width * min(64, width) for width in widths)
        assert after.alone.product - before.alone.product == pytest.approx(products)
    moving = counted(probe={"layers": {}}, teacher={"update": "ema"})
    still = counted(teacher={"update": "ema"})
    assert moving.start == still.start
    alone = counted(probe={"layers": {}, "baselines": False}, teacher={"update": "ema"})
    none = counted(probe={"baselines": False}, teacher={"update": "ema"})
    twice = moving.evaluation.alone.product - still.evaluation.alone.product
    assert twice == pytest.approx(2 * (alone.evaluation.alone.product - none.evaluation.alone.product))


def test_what_is_not_probed_costs_nothing() -> None:
    whole, alone = counted(), counted(probe={"baselines": False})
    teacher = whole.start.shared.network - alone.start.shared.network
    assert teacher == pytest.approx(whole.evaluation.shared.network)
    assert alone.start.alone == Work()
    assert alone.evaluation == whole.evaluation
    labels = {"kind": "supervise", "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10}}
    none = counted(**labels, probe={"linear": False, "knn": 0})
    assert (none.start, none.evaluation.alone) == (Phase(Work()), Work())
    network = meta_network(spec(**labels), DIGITS)
    images = torch.empty(256, 1, 8, 8, device="meta")
    assert none.evaluation.shared.network == pytest.approx(DIGITS.test / 256 * forward(lambda: network(images)))


def test_other_data_sets_are_probed_whole() -> None:
    with_other = count_run(spec(probe={"also": ["mnist"]}), DIGITS, {"mnist": DATASETS["mnist"]})
    images = (DIGITS.train + DIGITS.test, DATASETS["mnist"].train + DATASETS["mnist"].test)
    ratio = with_other.evaluation.shared.network / counted().evaluation.shared.network
    assert ratio == pytest.approx(sum(images) / images[0])


def test_other_data_sets_cost_what_they_do_at_the_size_at_which_they_are_seen() -> None:
    sets, plain = {"mnist": DATASETS["mnist"]}, counted()
    sizes = ("encoder", "own")
    resized, own = (count_run(spec(probe={"also": ["mnist"], "also_size": size}), DIGITS, sets) for size in sizes)
    embeddings = [each.evaluation.shared.network - plain.evaluation.shared.network for each in (resized, own)]
    assert embeddings[1] == pytest.approx((28 / 8) ** 2 * embeddings[0])
    pixels = [each.start.alone.product - each.evaluation.alone.product for each in (plain, resized, own)]
    assert pixels[2] > 5 * pixels[1] > pixels[0]


def test_seconds_are_computing_and_issuing_which_gpus_do_at_once() -> None:
    work = Work(network=10, product=20, traffic=20, calls=40)
    assert work.seconds(Rates(10.0, 10.0, 10.0, 1.0, False, "")) == 1 + 2 + 2 + 40
    assert work.seconds(Rates(10.0, 10.0, 10.0, 1.0, True, "")) == 40
    assert work.seconds(Rates(10.0, 10.0, 10.0, 0.0, True, "")) == 5


def test_workers_share_what_can_be_shared_and_each_issues_all_operations() -> None:
    phase = Phase(Work(network=8, product=8, traffic=8), Work(product=3))
    rates = Rates(1.0, 1.0, 1.0, 0.0, False, "")
    assert phase.seconds(rates, 1) == 24 + 3
    assert phase.seconds(rates, 4) == pytest.approx(24 / 4 / EFFICIENCY + 3)
    issued = Phase(Work(network=8, calls=100))
    issuing = Rates(1.0, 1.0, 1.0, 1.0, True, "")
    assert issued.seconds(issuing, 4) == pytest.approx(100 / EFFICIENCY)


def test_the_first_worker_fits_probes() -> None:
    fitted = [counted(teacher={"update": moves}) for moves in ("none", "ema")]
    assert all(work.evaluation.alone.product > 0 for work in fitted)
    assert all(work.step.alone == Work() for work in fitted)


def test_assumed_rates_say_so() -> None:
    rates = assumed(60.0)
    assert Work(network=60e12, product=60e12).seconds(rates) == 2
    assert rates.how.startswith("FLOPs counted, at an assumed 60 TFLOP/s")


def test_lengths_are_those_of_a_run() -> None:
    run = spec(train={"epochs": 7, "batch_size": 100}, probe={"every": "2ep"})
    assert run_length(run, DIGITS.train) == (105, 15, 1 + 3 + 1, 0)
    subset = spec(data={"name": "digits", "samples": 256}, train={"epochs": 2}, probe={"every": None})
    assert run_length(subset, DIGITS.train) == (2, 1, 2, 0)
    by_step = spec(train={"epochs": 2}, probe={"every": "5it"})
    assert run_length(by_step, DIGITS.train).evaluations == 1 + 12 // 5 + 1
    images = spec(data={"name": "cifar10", "samples": 25_600})
    assert run_length(images, CIFAR.train).epoch == 100
