"""What runs compute, counted, and how fast a device is found to be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.plan import rates as module
from rt_scale.plan.rates import Calibration, Rates, assumed
from rt_scale.plan.run_work import EFFICIENCY, RunWork, count_run, meta_network
from rt_scale.plan.work import Operation, Work, count
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
    assert count(lambda: network.encoder(image)).flops / 1e9 == pytest.approx(gigaflops, abs=0.006)
    embedding = torch.empty(1, network.encoder.embed_dim, device="meta")
    assert count(lambda: network.projector(embedding)).flops / 1e9 == pytest.approx(0.045, abs=0.0005)


def test_a_layer_is_counted_by_hand() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, device="meta"), torch.nn.ReLU())
    images, vectors = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(3, 5, device="meta")
    work = count(lambda: layers(images))
    maps = 2 * 4 * 8 * 8
    operation = Operation(2 * maps * 27, ((2, 3, 8, 8), (4, 3, 3, 3)), (("stride", (1, 1)), ("padding", (1, 1))))
    assert work == Work(2 * maps * 27, 0, 2 * 4 * maps, 2, {"convolution": operation})
    linear = torch.nn.Linear(5, 7, device="meta")
    work = count(lambda: linear(vectors))
    assert (work.product, work.traffic, work.calls) == (2 * 3 * 5 * 7, 0, 1)
    assert work.largest["product"].shapes == ((3, 5), (5, 7))


def test_amounts_add_up_and_keep_the_largest_operation() -> None:
    small, large = (Work(product=flops, largest={"product": Operation(flops, ())}) for flops in (1.0, 2.0))
    both = small + large * 3 + Work(convolution=5, traffic=4, calls=3) * 2
    assert (both.product, both.convolution, both.traffic, both.calls, both.flops) == (7, 10, 8, 6, 17)
    assert both.largest["product"].flops == 2


def test_a_run_is_its_start_its_steps_and_its_probings() -> None:
    work = counted(train={"epochs": 7, "batch_size": 100}, probe={"every": "2ep"})
    assert (work.steps, work.steps_per_epoch, work.evaluations) == (7 * 15, 15, 5)
    assert work.total.flops == pytest.approx(work.start.flops + 105 * work.step.flops + 5 * work.evaluation.flops)


def test_a_step_is_three_forward_passes_and_the_cached_teachers_logits() -> None:
    network = meta_network(spec(), DIGITS)
    images = torch.empty(256, 1, 8, 8, device="meta")
    forward = count(lambda: network(images)).flops
    logits = 2 * 256 * 8 * 32
    share = DIGITS.train / 256 / 6
    assert counted().step.flops == pytest.approx(share * (3 * forward + logits))
    uncached = count_run(spec(), DIGITS, {}, cached=False)
    assert uncached.step.flops == pytest.approx(share * 4 * forward)
    assert uncached.start.flops < counted().start.flops
    moving = counted(teacher={"update": "ema"})
    assert moving.step.flops == pytest.approx(share * 4 * forward)
    assert moving.evaluation.flops == pytest.approx(2 * counted().evaluation.flops)


def test_a_supervised_run_has_no_teacher_in_its_steps_but_tests_its_classifier() -> None:
    head = {"hidden": [16], "bottleneck": 8, "out_dim": 10}
    supervised, distilled = counted(kind="supervise", projector=head), counted(projector=head)
    assert supervised.step.flops < distilled.step.flops
    assert supervised.evaluation.flops > distilled.evaluation.flops


def test_views_are_counted_as_wide_and_as_many_as_they_are() -> None:
    views = {"kind": "multicrop", "global_views": 2, "local_views": 3, "global_size": 8, "local_size": 4}
    one = count_run(spec(), DIGITS, {}, cached=False)
    several = counted(augment=views, objective={"pairing": "all"})
    assert several.step.convolution == pytest.approx((3 * (2 + 3 / 4) + 2) / 4 * one.step.convolution)
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
    assert counted(probe=change).evaluation.flops != counted().evaluation.flops


def test_other_data_sets_are_probed_whole() -> None:
    with_other = count_run(spec(probe={"also": ["mnist"]}), DIGITS, {"mnist": DATASETS["mnist"]})
    images = (DIGITS.train + DIGITS.test, DATASETS["mnist"].train + DATASETS["mnist"].test)
    ratio = with_other.evaluation.convolution / counted().evaluation.convolution
    assert ratio == pytest.approx(sum(images) / images[0])


def test_other_data_sets_cost_what_they_do_at_the_size_at_which_they_are_seen() -> None:
    sets, plain = {"mnist": DATASETS["mnist"]}, counted()
    sizes = ("encoder", "own")
    resized, own = (count_run(spec(probe={"also": ["mnist"], "also_size": size}), DIGITS, sets) for size in sizes)
    embeddings = [each.evaluation.convolution - plain.evaluation.convolution for each in (resized, own)]
    assert embeddings[1] == pytest.approx((28 / 8) ** 2 * embeddings[0])
    pixels = [each.fits_at_start.product - each.fits.product for each in (plain, resized, own)]
    assert pixels[2] > 5 * pixels[1] > pixels[0]


def test_a_subset_costs_its_share() -> None:
    half = count_run(spec(data={"name": "cifar10", "samples": 25_600}), CIFAR, {})
    assert (half.steps_per_epoch, half.steps) == (100, 10_000)


def test_seconds_are_computing_and_issuing_which_gpus_do_at_once() -> None:
    work = Work(convolution=10, product=20, traffic=30, calls=40)
    rates = {"convolution": 10.0, "product": 10.0, "traffic": 10.0, "call": 1.0, "how": ""}
    assert Rates(**rates, overlaps=False).seconds(work) == 1 + 2 + 3 + 40
    assert Rates(**rates, overlaps=True).seconds(work) == 40
    assert Rates(**{**rates, "call": 0.0}, overlaps=True).seconds(work) == 6


@pytest.mark.parametrize("moves", ["none", "ema"])
def test_workers_share_steps_and_embeddings_and_the_first_fits_probes(moves: str) -> None:
    work = counted(teacher={"update": moves})
    rates = Rates(1e6, 1e7, 1e8, 0.0, False, "")
    alone = rates.seconds(work.fits_at_start) + rates.seconds(work.fits) * work.evaluations
    one = work.seconds(rates)
    assert one == pytest.approx(rates.seconds(work.total))
    assert 0 < alone < one
    for workers in (2, 8):
        assert work.seconds(rates, workers) == pytest.approx(alone + (one - alone) / workers / EFFICIENCY)


def test_issuing_operations_is_not_shared() -> None:
    work = counted()
    rates = Rates(float("inf"), float("inf"), float("inf"), 1e-5, True, "")
    assert work.seconds(rates, 4) > work.seconds(rates)
    assert Work(1, 2, 4, 8).among(2) == Work(0.5, 1, 2, 8)


def test_assumed_rates_say_so() -> None:
    rates = assumed(60.0)
    assert rates.seconds(Work(convolution=60e12, product=60e12)) == 2
    assert rates.how.startswith("FLOPs counted, at an assumed 60 TFLOP/s")


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_rates_are_measured_on_the_largest_operations(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "TRAFFIC", (8, 8, 8, 8))
    work = counted().total
    seen: list[tuple[int, int, torch.dtype]] = []
    conv2d = torch.nn.functional.conv2d

    def watch(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        seen.append((len(x), torch.get_num_threads(), x.dtype))
        return conv2d(x, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    before = torch.get_num_threads()
    others = 1 if before > 1 else 2
    rates = Calibration(torch.device("cpu"), others).rates(work, precision)
    assert min(rates.convolution, rates.product, rates.traffic, rates.call) > 0
    assert not rates.overlaps
    assert f"(cpu, {others} thread{'s' if others > 1 else ''})" in rates.how
    assert set(seen) == {(256, others, torch.float64 if precision == "float64" else torch.float32)}
    assert torch.get_num_threads() == before


def test_an_operation_is_measured_once_and_a_large_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "TRAFFIC", (8, 8, 8, 8))
    monkeypatch.setitem(module.MOST_FLOPS, "cpu", 2.0 * 16 * 8 * 8)
    seen: list[tuple[int, ...]] = []
    matmul = torch.matmul

    def watch(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        seen.append((*x.shape, *w.shape))
        return matmul(x, w)

    monkeypatch.setattr(torch, "matmul", watch)
    calibration = Calibration(torch.device("cpu"), 1)
    many = Operation(2.0 * 64 * 8 * 8, ((64, 8), (8, 8)))
    for _ in range(2):
        calibration.rates(Work(largest={"product": many}), "float32")
    assert set(seen) == {(16, 8, 8, 8)}
    assert len(seen) == 1 + 1 + module.LEAST
    pairs = Operation(2.0 * 32 * 4 * 8 * 8, ((32, 4, 8), (32, 8, 8)))
    calibration.rates(Work(largest={"product": pairs}), "float32")
    assert seen[-1] == (4, 4, 8, 4, 8, 8)
