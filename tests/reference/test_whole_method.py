"""Ours against the naive implementation beside this file, over 12 optimiser steps, to 1e-9 relative.

alpha is 0.3 and 1 here. At 0 or 1e-10 without batch norm the student is its teacher, the exact gradient is 0,
and what a computer finds instead is rounding noise, which Adam divides by its own size: two correct
implementations then part at the first step, and there is nothing to compare.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from rt_scale.losses import chunked as wide
from rt_scale.spec.networks import PARTS, parse_parts
from rt_scale.training import distillation
from tests.reference import naive_method as naive
from tests.reference.agreement import EPOCH, STEPS, assert_agreement, run_spec

BOTH = (True, False)  # the teacher's features cached, and computed


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


@pytest.mark.parametrize(
    ("name", "norm", "alpha"),
    [("cross_entropy", "none", 0.3), ("cross_entropy", "batch", 1.0), ("kl", "none", 0.3), ("mse", "batch", 1.0)],
)
@pytest.mark.parametrize("parts", allowed_parts())
def test_every_objective_and_set_of_bottleneck_parts(
    monkeypatch: pytest.MonkeyPatch, parts: str, name: str, norm: str, alpha: float
) -> None:
    if name == "kl":  # then a tile at a time where there is a last layer; the others make all logits at once
        for module in (distillation, wide):
            monkeypatch.setattr(module, "tile_columns", lambda rows, device: 3)
    # torch's default initialisation: deviations of 0.02 and no norm at all would leave logits of 1e-4.
    projector = {"parts": parts, "init": "torch"}
    spec = run_spec(alpha=alpha, norm=norm, projector=projector, objective={"name": name}, train={"optimizer": ADAMW})
    assert_agreement(spec, NAIVE_ADAMW, naive.Method(name), cached=BOTH)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("init", ["trunc_normal", "torch"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_every_hidden_layer(activation: str, batch_norm: bool, init: str, alpha: float) -> None:
    projector = {"activation": activation, "batch_norm": batch_norm, "init": init}
    spec = run_spec(alpha=alpha, projector=projector, train={"optimizer": ADAMW})
    assert_agreement(spec, NAIVE_ADAMW, cached=BOTH)


RATES: dict[str, Callable[[int], float]] = {
    "0.02": lambda t: 0.02,
    "exponential(0.02, 0.0002)": lambda t: 0.02 * 0.01 ** (t / STEPS),
    "multistep(0.02, 0.1, 2ep, 3ep)": lambda t: [0.02, 0.02, 0.002, 0.0002][t // EPOCH],
    "linear(0, 0.02, 1ep) + cosine(0.02, 0.001)": lambda t: (
        0.02 * t / EPOCH if t < EPOCH else 0.001 + 0.019 * (1 + math.cos(math.pi * (t - EPOCH) / (STEPS - EPOCH))) / 2
    ),
}
DECAYS: dict[str, Callable[[int], float]] = {
    "0": lambda t: 0.0,
    "0.1": lambda t: 0.1,
    "linear(0.04, 0.4, 8it)": lambda t: 0.04 + 0.36 * min(1.0, t / 8),
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
    recipe = naive.Recipe(**fields, lr=lambda t: 0.02, weight_decay=lambda t: 0.1, frozen_steps=2 * EPOCH)
    assert_agreement(run_spec(norm=norm, projector={}, train=train), recipe)
