"""Ours against the naive implementation beside this file, over 20 optimiser steps, to 1e-9 relative.

alpha is 0.3 and 1 here. At 0 or 1e-10 without batch norm the student is its teacher, the exact gradient is 0,
and what a computer finds instead is rounding noise, which Adam divides by its own size: two correct
implementations then part at the first step, and there is nothing to compare.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loader import Batch
from rt_scale.models.pair import Pair, build_pair, to_device
from rt_scale.spec.bottleneck import PARTS, parse_parts
from rt_scale.spec.duration import duration_steps
from rt_scale.spec.run import RunSpec
from rt_scale.training.distillation import Distillation
from rt_scale.training.loop import Progress, train
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.targets import CachedTargets, ComputedTargets, Targets
from tests.reference import naive_method as naive

SAMPLES, SIZE, BATCH, EPOCHS, STEPS = 18, 6, 4, 4, 20  # 5 steps an epoch; the last has 2 images
MEAN, STD = 0.45, 0.3
RELATIVE = 1e-9
ABSOLUTE = 1e-12  # for a number that is close to 0 by chance: 1e-9 of one of Adam's updates at a learning rate of 1e-3
NOISE = 1e-6  # see shifts_of_batch_norms


class InMemory:
    """18 random images; in every epoch another order (a Loader)."""

    samples, batch_size, steps = SAMPLES, BATCH, STEPS // EPOCHS

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images = torch.from_numpy(generator.integers(0, 256, (SAMPLES, SIZE, SIZE, 1), dtype=np.uint8))
        self.orders = [generator.permutation(SAMPLES).tolist() for _ in range(EPOCHS)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for positions in split(self.orders[epoch])[start:]:
            index = torch.tensor(positions)
            yield Batch(self.images[index], torch.zeros(len(index), dtype=torch.int64), index)

    def sequential(self) -> Iterator[Batch]:
        yield Batch(self.images, torch.zeros(SAMPLES, dtype=torch.int64), torch.arange(SAMPLES))


class Epochs(list[dict[str, float]]):
    """Keeps the metrics of every epoch (a Hook)."""

    def after_step(self, progress: Progress) -> None:
        pass

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.append(metrics)


def split(positions: list[int]) -> list[list[int]]:
    return [positions[start : start + BATCH] for start in range(0, SAMPLES, BATCH)]


def run_spec(*, alpha: float = 0.3, norm: str = "none", projector: dict[str, Any], train: dict[str, Any]) -> RunSpec:
    return RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": norm},
            "projector": {"hidden": [7], "bottleneck": 5, "out_dim": 9, **projector},
            "student": {"alpha": alpha},
            "train": {"epochs": EPOCHS, "batch_size": BATCH, **train},
            "precision": "float64",
        }
    )


def start(spec: RunSpec) -> Pair:
    teacher, student = build_pair(spec, channels=1, size=SIZE)
    return Pair(*(to_device(network, "cpu", torch.float64) for network in (teacher, student)))


def ours(spec: RunSpec, cached: bool) -> tuple[nn.Module, Epochs]:
    """The student after a run of ``spec``, put together as experiments/distill.py does, and its epochs' metrics."""
    teacher, student = start(spec)
    loader, recipe, history = InMemory(), spec.train, Epochs()
    inputs = functools.partial(to_inputs, mean=(MEAN,), std=(STD,), size=None, dtype=torch.float64)
    targets: Targets = (
        CachedTargets(teacher, loader.sequential(), SAMPLES, inputs) if cached else ComputedTargets(teacher)
    )
    optimizer = build_optimizer(recipe.optimizer, student.parameters())
    rules = UpdateRules(
        optimizer,
        recipe.optimizer,
        steps=STEPS,
        steps_per_epoch=loader.steps,
        frozen=list(student.projector.last.parameters()),
        frozen_steps=duration_steps(recipe.freeze_last, loader.steps) if recipe.freeze_last else 0,
    )
    objective = Distillation(targets, inputs, spec.precision)
    progress = Progress()
    train(student, loader, objective, optimizer, epochs=EPOCHS, progress=progress, before_update=rules, hooks=[history])
    assert progress == Progress(EPOCHS, STEPS)
    return student, history


def plain(spec: RunSpec, network: nn.Module) -> naive.Network:
    return naive.Network(
        theta={name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()},
        statistics={name: value.clone() for name, value in network.named_buffers() if "running" in name},
        parts=spec.projector.parts,
        activation=spec.projector.activation,
        training=network.training,
    )


def shifts_of_batch_norms(network: naive.Network) -> set[str]:
    """Biases right before a batch norm, which subtracts them again, and the running means that they are part of.

    Their exact gradient is 0; what is computed is rounding, some 1e-16, and Adam divides it by its size + 1e-8.
    """
    norms = [name.removesuffix(".running_mean") for name in network.statistics if name.endswith("mean")]
    layers = [(norm, *norm.rsplit(".", 1)) for norm in norms]
    biases = {f"{prefix}.{int(place) - 1}.bias" for _, prefix, place in layers}
    assert biases <= network.theta.keys()
    return biases | {f"{norm}.running_mean" for norm in norms}


def assert_agreement(spec: RunSpec, recipe: naive.Recipe) -> None:
    """Both ways of having the teacher, in every parameter, running statistic and metric."""
    teacher, student = (plain(spec, network) for network in start(spec))
    initial = dict(student.theta)
    loader = InMemory()
    pixels = (loader.images.permute(0, 3, 1, 2).double() / 255 - MEAN) / STD
    expected = naive.training(teacher, student, pixels, [split(order) for order in loader.orders], recipe)
    assert min(epoch["grad_norm"] for epoch in expected) > 1e-6  # more than rounding: it is training that agrees
    assert any((student.theta[name] - initial[name]).abs().max() > 1e-3 for name in initial)
    for cached in (False, True):
        trained, history = ours(spec, cached)
        assert [set(metrics) for metrics in history] == [set(metrics) for metrics in expected]
        for metrics, expected_metrics in zip(history, expected, strict=True):
            assert metrics == pytest.approx(expected_metrics, rel=RELATIVE, abs=ABSOLUTE)
        state = {name: value for name, value in trained.state_dict().items() if "num_batches" not in name}
        assert state.keys() == student.theta.keys() | student.statistics.keys()
        for name, value in {**student.theta, **student.statistics}.items():
            absolute = NOISE if name in shifts_of_batch_norms(student) else ABSOLUTE
            found = torch.isclose(state[name], value.detach(), rtol=RELATIVE, atol=absolute)
            assert found.all(), f"{name} (cached: {cached}): {state[name]} is not {value}"


def allowed_parts() -> list[str]:
    """Each weight norm needs its linear layer, and two feature norms need linear 2 between them."""
    found = []
    for bits in itertools.product([False, True], repeat=6):
        try:
            found.append(parse_parts(dict(zip(PARTS, bits, strict=True))))
        except ValueError:
            continue
    assert len(found) == 3 * 3 * 4 - 3
    return found


ADAMW = {"name": "adamw", "lr": 0.01}
NAIVE_ADAMW = naive.Recipe("adamw", lambda t: 0.01, lambda t: 0.0)


@pytest.mark.parametrize(("norm", "alpha"), [("none", 0.3), ("batch", 1.0)])
@pytest.mark.parametrize("parts", allowed_parts())
def test_every_set_of_bottleneck_parts(parts: str, norm: str, alpha: float) -> None:
    # torch's default initialisation: deviations of 0.02 and no norm at all would leave logits of 1e-4.
    projector = {"parts": parts, "init": "torch"}
    spec = run_spec(alpha=alpha, norm=norm, projector=projector, train={"optimizer": ADAMW})
    assert_agreement(spec, NAIVE_ADAMW)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("init", ["trunc_normal", "torch"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_every_hidden_layer(activation: str, batch_norm: bool, init: str, alpha: float) -> None:
    projector = {"activation": activation, "batch_norm": batch_norm, "init": init}
    spec = run_spec(alpha=alpha, projector=projector, train={"optimizer": ADAMW})
    assert_agreement(spec, NAIVE_ADAMW)


RATES: dict[str, Callable[[int], float]] = {
    "0.02": lambda t: 0.02,
    "exponential(0.02, 0.0002)": lambda t: 0.02 * 0.01 ** (t / 20),
    "multistep(0.02, 0.1, 2ep, 3ep)": lambda t: [0.02, 0.02, 0.002, 0.0002][t // 5],
    "linear(0, 0.02, 1ep) + cosine(0.02, 0.001)": lambda t: (
        0.02 * t / 5 if t < 5 else 0.001 + 0.019 * (1 + math.cos(math.pi * (t - 5) / 15)) / 2
    ),
}
DECAYS: dict[str, Callable[[int], float]] = {
    "0": lambda t: 0.0,
    "0.1": lambda t: 0.1,
    "linear(0.04, 0.4, 10it)": lambda t: 0.04 + 0.36 * min(1.0, t / 10),
}
OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "adam"},
    {"name": "adamw"},
    {"name": "sgd"},
    {"name": "sgd", "momentum": 0.9},
]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_every_optimiser_schedule_and_weight_decay(optimizer: dict[str, Any], rate: str, decay: str) -> None:
    fields = {**optimizer, "lr": rate, "weight_decay": decay}
    # Not Adam: its decay is part of the gradient, which makes it blow up the noise in a bias before a batch norm.
    norm = "none" if optimizer["name"] == "adam" else "batch"
    spec = run_spec(norm=norm, projector={}, train={"optimizer": fields})
    assert_agreement(spec, naive.Recipe(**optimizer, lr=RATES[rate], weight_decay=DECAYS[decay]))


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_clipping_a_frozen_last_layer_and_what_decays(optimizer: dict[str, Any], norm: str) -> None:
    """The DINO reference's recipe (appendix E.4); the frozen layer counts in the norm that is clipped."""
    fields = {**optimizer, "decay_norm_and_bias": False, "clip": 0.02}
    train = {"optimizer": {**fields, "lr": 0.02, "weight_decay": 0.1}, "freeze_last": "2ep"}
    recipe = naive.Recipe(**fields, lr=lambda t: 0.02, weight_decay=lambda t: 0.1, frozen_steps=10)
    assert_agreement(run_spec(norm=norm, projector={}, train=train), recipe)
