"""Teachers that move, multi-crop, centring and temperatures, and labels: ours against the naive implementation.

With batch norms the optimiser is SGD: a bias before a batch norm has the exact gradient 0, of which Adam would
make steps of its own in either implementation, and a teacher in evaluation mode does not subtract them again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.reference import naive_method as naive
from tests.reference.agreement import EPOCH, STEPS, assert_agreement, run_spec

SGD = {"optimizer": {"name": "sgd", "lr": 0.5, "momentum": 0.9}}
NAIVE_SGD = naive.Recipe("sgd", lambda t: 0.5, lambda t: 0.0, momentum=0.9)
ADAMW = {"optimizer": {"name": "adamw", "lr": 0.01}}
NAIVE_ADAMW = naive.Recipe("adamw", lambda t: 0.01, lambda t: 0.0)
TORCH = {"init": "torch"}
NORMED = {"init": "torch", "batch_norm": True}
MULTICROP = {"kind": "multicrop", "global_views": 2, "local_views": 1, "global_size": 6, "local_size": 4}

TEACHERS = [
    teacher
    for teacher in itertools.product(
        ["none", "ema", "previous_epoch"], ["eval", "train"], ["initial", "student", "data"]
    )
    if (teacher[0], teacher[2]) != ("none", "student")
]


@pytest.mark.parametrize(("update", "mode", "statistics"), TEACHERS)
def test_every_teacher_on_views_of_two_sizes(update: str, mode: str, statistics: str) -> None:
    """Another view, since a previous teacher in training mode would be the student, and the gradient 0."""
    momentum = {"momentum": "linear(0.5, 1)"} if update == "ema" else {}
    spec = run_spec(
        alpha=1.0,
        norm="batch",
        projector=NORMED,
        teacher={"update": update, "mode": mode, "statistics": statistics, **momentum},
        augment=MULTICROP,
        objective={"pairing": "opposite"},
        train=SGD,
    )
    method = naive.Method(
        pairing="opposite",
        global_views=2,
        update=update,
        momentum=lambda t: 0.5 + 0.5 * t / STEPS,
        evaluation=mode == "eval",
        statistics=statistics,
    )
    assert_agreement(spec, NAIVE_SGD, method)


@pytest.mark.parametrize(("update", "mode", "statistics"), TEACHERS[:10])
def test_frozen_and_averaged_teachers_on_one_view(update: str, mode: str, statistics: str) -> None:
    momentum = {"momentum": 0.7} if update == "ema" else {}
    teacher = {"update": update, "mode": mode, "statistics": statistics, **momentum}
    spec = run_spec(alpha=1.0, norm="batch", projector=NORMED, teacher=teacher, train=SGD)
    method = naive.Method(
        update=update, momentum=lambda t: 0.7, evaluation=mode == "eval", statistics=statistics
    )  # fmt: skip
    assert_agreement(spec, NAIVE_SGD, method)


MOMENTA: dict[float | str, Callable[[int], float]] = {
    0.9: lambda t: 0.9,
    "cosine(0.5, 1)": lambda t: 0.5 + 0.5 * (1 - math.cos(math.pi * t / STEPS)) / 2,
    "constant(1, 1ep) + linear(0.5, 0.9)": lambda t: 1.0 if t < EPOCH else 0.5 + 0.4 * (t - EPOCH) / (STEPS - EPOCH),
}


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_every_momentum_of_an_averaged_teacher(momentum: float | str, name: str) -> None:
    teacher = {"update": "ema", "momentum": momentum}
    spec = run_spec(projector=TORCH, teacher=teacher, objective={"name": name}, train=ADAMW)
    assert_agreement(spec, NAIVE_ADAMW, naive.Method(name, update="ema", momentum=MOMENTA[momentum]))


VIEWS = [(pairing, 2, 2) for pairing in ("opposite", "all")] + [("same", 2, 0), ("opposite", 1, 2), ("all", 3, 1)]


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize(("pairing", "large", "small"), VIEWS)
def test_every_pairing_of_views(pairing: str, large: int, small: int, name: str, norm: str) -> None:
    spec = run_spec(
        norm=norm,
        projector=TORCH,
        augment={**MULTICROP, "global_views": large, "local_views": small},
        objective={"name": name, "pairing": pairing},
        train=SGD,
    )
    assert_agreement(spec, NAIVE_SGD, naive.Method(name, pairing, large))


TEMPERATURES: dict[float | str, Callable[[int], float]] = {
    1.0: lambda t: 1.0,
    0.1: lambda t: 0.1,
    "linear(0.04, 0.5, 2ep) + constant(0.5)": lambda t: 0.04 + 0.46 * t / (2 * EPOCH) if t < 2 * EPOCH else 0.5,
}
CENTRES: dict[float | str | None, Callable[[int], float] | None] = {
    None: None,
    0.9: lambda t: 0.9,
    "linear(0, 1)": lambda t: t / STEPS,
}
SHARP = [(tau, centre) for tau in TEMPERATURES for centre in CENTRES]


def sharpened(tau: float | str, centre: float | str | None) -> tuple[dict[str, Any], naive.Sharpening]:
    return {"temperature": tau, "center": centre}, naive.Sharpening(TEMPERATURES[tau], CENTRES[centre])


@pytest.mark.parametrize(("tau", "centre"), SHARP)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_every_temperature_and_centre_of_one_network(role: str, tau: float | str, centre: float | str | None) -> None:
    fields, sharpening = sharpened(tau, centre)
    spec = run_spec(projector=TORCH, train=ADAMW, **{role: fields})
    assert_agreement(spec, NAIVE_ADAMW, naive.Method(**{role: sharpening}), cached=(True, False))


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "mse"])
def test_dinos_choices_together(name: str) -> None:
    """Appendix E: an averaged teacher in training mode, centring, temperatures, opposite views of two sizes."""
    taught, teacher = sharpened("linear(0.04, 0.5, 2ep) + constant(0.5)", 0.9)
    learned, student = sharpened(0.1, "linear(0, 1)")
    moving = {"update": "ema", "momentum": "cosine(0.5, 1)", "mode": "train", "statistics": "data"}
    spec = run_spec(
        norm="batch",
        projector=NORMED,
        teacher={**moving, **taught},
        student=learned,
        augment=MULTICROP,
        objective={"name": name, "pairing": "opposite"},
        train={"optimizer": {**SGD["optimizer"], "lr": 0.05}},
    )
    method = naive.Method(
        name, "opposite", 2, "ema", MOMENTA["cosine(0.5, 1)"], False, "data", teacher=teacher, student=student
    )
    assert_agreement(spec, naive.Recipe("sgd", lambda t: 0.05, lambda t: 0.0, momentum=0.9), method)


@pytest.mark.parametrize("width", [0.5, 2.0])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_teacher_of_another_width(norm: str, width: float) -> None:
    spec = run_spec(alpha=1.0, norm=norm, projector=TORCH, teacher={"width": width}, train=SGD)
    assert_agreement(spec, NAIVE_SGD, cached=(True, False))


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("parts", ["-/lb/-/-/-/-", "-/lb/fn/wn/l/-"])
def test_labels_in_place_of_a_teacher(parts: str, norm: str, noise: float) -> None:
    fields = {"kind": "supervise", "objective": {"label_noise": noise}}
    spec = run_spec(norm=norm, projector={"parts": parts, "init": "torch"}, train=ADAMW, **fields)
    assert_agreement(spec, NAIVE_ADAMW, naive.Method("labels"))
