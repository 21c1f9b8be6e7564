"""What runs compute, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.plan.flops import (
    EFFICIENCY,
    MODULE_PASSES,
    Rates,
    RunWork,
    Work,
    count_run,
    evaluations,
    flops,
    meta_network,
    training_steps,
)
from rt_scale.plan.measure import assumed
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
    both = Work(product=1.0) + Work(product=2.0) * 3 + Work(network=5, activations=1, traffic=4, calls=3) * 2
    assert both == Work(network=10, product=7, activations=2, traffic=8, calls=6)


def test_a_run_is_its_start_its_steps_and_its_probings() -> None:
    work = counted(train={"epochs": 7, "batch_size": 100}, probe={"every": "2ep"})
    assert (work.steps, work.steps_per_epoch, work.evaluations) == (7 * 15, 15, 5)
    assert work.total.network == pytest.approx(
        work.start.network + 105 * work.step.network + 5 * work.evaluation.network
    )


def test_a_step_is_both_passes_and_the_cached_teachers_logits() -> None:
    network = meta_network(spec(), DIGITS)
    images = torch.empty(256, 1, 8, 8, device="meta")
    teacher, student = forward(lambda: network(images)), flops(lambda: network(images).sum().backward())
    logits = 2 * 256 * 8 * 32
    share = DIGITS.train / 256 / 6
    assert counted().step.network == pytest.approx(share * (student + logits))
    uncached = count_run(spec(), DIGITS, {}, cached=False)
    assert uncached.step.network == pytest.approx(share * (student + teacher))
    assert uncached.start.network < counted().start.network
    moving = counted(teacher={"update": "ema"})
    assert moving.step.network == pytest.approx(share * (student + teacher))
    assert moving.evaluation.network == pytest.approx(2 * counted().evaluation.network)


def test_what_modules_without_flops_make_is_read_and_written_beside_them() -> None:
    plain, normed = (counted(encoder={"name": "convnet_8_2", "norm": norm}).step for norm in ("none", "batch"))
    assert normed.network == plain.network
    maps = 256 * (8 * 64 + 8 * 64)  # values that two norms make of a batch
    more = (normed.activations - plain.activations) / (DIGITS.train / 256 / 6)
    assert more == pytest.approx(3 * MODULE_PASSES * 4 * maps)


def test_a_supervised_run_has_no_teacher_in_its_steps_but_tests_its_classifier() -> None:
    head = {"hidden": [16], "bottleneck": 8, "out_dim": 10}
    supervised, distilled = counted(kind="supervise", projector=head), counted(projector=head)
    assert supervised.step.network < distilled.step.network
    assert supervised.evaluation.network > distilled.evaluation.network


def test_views_are_counted_as_wide_and_as_many_as_they_are() -> None:
    views = {"kind": "multicrop", "global_views": 2, "local_views": 3, "global_size": 8, "local_size": 4}
    one = count_run(spec(), DIGITS, {}, cached=False)
    several = counted(augment=views, objective={"pairing": "all"})
    assert several.step.network == pytest.approx((3 * (2 + 3 / 4) + 2) / 4 * one.step.network, rel=0.05)
    more = counted(augment={**views, "local_views": 4}, objective={"pairing": "all"})
    assert more.step.traffic > several.step.traffic


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
    assert counted(probe=change).evaluation.product != counted().evaluation.product


def test_other_data_sets_are_probed_whole() -> None:
    with_other = count_run(spec(probe={"also": ["mnist"]}), DIGITS, {"mnist": DATASETS["mnist"]})
    images = (DIGITS.train + DIGITS.test, DATASETS["mnist"].train + DATASETS["mnist"].test)
    ratio = with_other.evaluation.network / counted().evaluation.network
    assert ratio == pytest.approx(sum(images) / images[0])


def test_other_data_sets_cost_what_they_do_at_the_size_at_which_they_are_seen() -> None:
    sets, plain = {"mnist": DATASETS["mnist"]}, counted()
    sizes = ("encoder", "own")
    resized, own = (count_run(spec(probe={"also": ["mnist"], "also_size": size}), DIGITS, sets) for size in sizes)
    embeddings = [each.evaluation.network - plain.evaluation.network for each in (resized, own)]
    assert embeddings[1] == pytest.approx((28 / 8) ** 2 * embeddings[0])
    pixels = [each.fits_at_start.product - each.fits.product for each in (plain, resized, own)]
    assert pixels[2] > 5 * pixels[1] > pixels[0]


def test_a_subset_costs_its_share() -> None:
    half = count_run(spec(data={"name": "cifar10", "samples": 25_600}), CIFAR, {})
    assert (half.steps_per_epoch, half.steps) == (100, 10_000)


def test_seconds_are_computing_and_issuing_which_gpus_do_at_once() -> None:
    work = Work(network=10, product=20, activations=10, traffic=20, calls=40)
    rates = {"network": 10.0, "product": 10.0, "activations": 10.0, "traffic": 10.0, "call": 1.0, "how": ""}
    assert Rates(**rates, overlaps=False).seconds(work) == 1 + 2 + 1 + 2 + 40
    assert Rates(**rates, overlaps=True).seconds(work) == 40
    assert Rates(**{**rates, "call": 0.0}, overlaps=True).seconds(work) == 6


@pytest.mark.parametrize("moves", ["none", "ema"])
def test_workers_share_steps_and_embeddings_and_the_first_fits_probes(moves: str) -> None:
    work = counted(teacher={"update": moves})
    rates = Rates(1e6, 1e7, 1e8, 1e8, 0.0, False, "")
    alone = rates.seconds(work.fits_at_start) + rates.seconds(work.fits) * work.evaluations
    one = work.seconds(rates)
    assert one == pytest.approx(rates.seconds(work.total))
    assert 0 < alone < one
    for workers in (2, 8):
        assert work.seconds(rates, workers) == pytest.approx(alone + (one - alone) / workers / EFFICIENCY)


def test_issuing_operations_is_not_shared() -> None:
    work = counted()
    rates = Rates(*[float("inf")] * 4, 1e-5, True, "")
    assert work.seconds(rates, 4) > work.seconds(rates)
    assert Work(1, 2, 4, 8, 16).among(2) == Work(0.5, 1, 2, 4, 16)


def test_assumed_rates_say_so() -> None:
    rates = assumed(60.0)
    assert rates.seconds(Work(network=60e12, product=60e12)) == 2
    assert rates.how.startswith("FLOPs counted, at an assumed 60 TFLOP/s")


SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 2}}


def test_lengths_are_those_of_a_run() -> None:
    spec = RunSpec.model_validate({**SMALL, "train": {"epochs": 7, "batch_size": 100}, "probe": {"every": "2ep"}})
    images = DATASETS["digits"].train
    assert training_steps(spec, images) == (105, 15)
    assert evaluations(spec, images) == 1 + 3 + 1
    subset = RunSpec.model_validate({**SMALL, "data": {"name": "digits", "samples": 256}, "probe": {"every": None}})
    assert training_steps(subset, images) == (2, 1)
    assert evaluations(subset, images) == 2
    by_step = RunSpec.model_validate({**SMALL, "probe": {"every": "5it"}})
    assert evaluations(by_step, images) == 1 + 12 // 5 + 1
