"""The wide output a tile at a time against softmax and log_softmax of all logits, as the formulas are written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rt_scale.losses.chunked import wide_distance
from rt_scale.models.networks import initialise
from rt_scale.models.projector import Outputs, Projector
from rt_scale.spec.networks import ProjectorSpec
from rt_scale.training.teacher import Sharpening

BATCHES = [1, 5]
WIDTHS = [(1, 1), (7, 3), (24, 8), (50, 8), (50, 64)]
"""m and columns of a tile: also where the last tile is narrower, and where there is but one."""


def factors(batch: int, outputs: int, scale: float = 1.0) -> list[Tensor]:
    """Features and weights of student and teacher, in float64; k = 4."""
    generator = torch.Generator().manual_seed(batch * outputs)
    rows = (batch, outputs, batch, outputs)
    return [scale * torch.randn(each, 4, generator=generator, dtype=torch.float64) for each in rows]


def formula(name: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Loss, KL, teacher and student entropy."""
    log_s, log_t = torch.log_softmax(logits, 1), torch.log_softmax(targets, 1)
    s, t = torch.softmax(logits, 1), torch.softmax(targets, 1)
    cross, kl = -(t * log_s).sum(1).mean(), (t * (log_t - log_s)).sum(1).mean()
    return (kl if name == "kl" else cross), kl, -(t * log_t).sum(1).mean(), -(s * log_s).sum(1).mean()


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize(("outputs", "columns"), WIDTHS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["cross_entropy", "kl"])
def test_values_and_gradients(name: str, batch: int, outputs: int, columns: int, scale: float, unit: bool) -> None:
    share = 0.3  # of a worker, by which its loss is weighted
    exact = factors(batch, outputs, scale)
    shifts = [torch.linspace(-1, 1, outputs, dtype=torch.float64), torch.linspace(2, 0, outputs, dtype=torch.float64)]
    f, w, g, v = [each.clone().requires_grad_() for each in exact]
    acting = functional.normalize(w, dim=1) if unit else w
    expected = formula(name, f @ acting.T + shifts[0], (g @ v.T + shifts[1]).detach())
    expected_gradients = torch.autograd.grad(share * expected[0], (f, w))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        features, weight, targets, directions = (each.to(dtype) for each in exact)
        student = Outputs(features.requires_grad_(), weight.requires_grad_(), unit, shifts[0].to(dtype))
        teacher = Outputs(targets, directions, shift=shifts[1].to(dtype))
        found = wide_distance(name, student, teacher, columns=columns)
        largest = max(1.0, scale**2 * 16)  # rounding is relative to the logits
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * largest)
        gradients = torch.autograd.grad(share * found.loss, (features, weight))
        for mine, theirs in zip(gradients, expected_gradients, strict=True):
            assert mine.dtype == dtype
            torch.testing.assert_close(mine.double(), theirs, rtol=20 * tolerance, atol=tolerance)


@pytest.mark.parametrize("unit", [True, False])
def test_gradient_by_finite_differences(unit: bool) -> None:
    features, weight, targets, directions = factors(3, 7)

    def loss(features: Tensor, weight: Tensor) -> Tensor:
        student, teacher = Outputs(features, weight, unit), Outputs(targets, directions)
        return wide_distance("kl", student, teacher, columns=3).loss

    assert torch.autograd.gradcheck(loss, (features.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (0.1, "linear(0.04, 0.08)")])
@pytest.mark.parametrize("momentum", [None, 0.9])
@pytest.mark.parametrize("parts", ["-/lb/fn/wn/l/-", "wn/lb/-/-/l/-", "-/-/fn/-/l/-", "-/-/-/wn/l/-"])
def test_projectors_temperatures_and_centres(parts: str, momentum: float | None, temperatures: Any) -> None:
    """Of both networks, two steps: against logits made by the projector and sharpened as they are."""
    generator = torch.Generator().manual_seed(0)
    spec = ProjectorSpec(hidden=(5,), bottleneck=4, out_dim=9, parts=parts, batch_norm=True)
    heads = [Projector(6, spec) for _ in "st"]
    heads = [initialise(head, generator, linear="torch").double() for head in heads]
    ways = [[Sharpening(each, momentum, steps=4) for each in temperatures] for _ in range(2)]
    for step in (0, 1):
        inputs = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        factored = [head.outputs(head.features(inputs)) for head in heads]
        assert all(head.factored for head in heads)
        sides = [way.of_outputs(each, step) for way, each in zip(ways[0], factored, strict=True)]
        found = wide_distance("cross_entropy", *sides, columns=4)
        logits = [way(head(inputs), step) for way, head in zip(ways[1], heads, strict=True)]
        expected = formula("cross_entropy", logits[0], logits[1].detach())
        torch.testing.assert_close(tuple(found), expected, rtol=1e-9, atol=1e-9)
        parameters = list(heads[0].parameters())
        gradients = torch.autograd.grad(found.loss, parameters), torch.autograd.grad(expected[0], parameters)
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)
        centres = [[way.centre for way in pair] for pair in ways]
        torch.testing.assert_close(*centres, rtol=1e-9, atol=1e-12)


def test_bf16_rounds_the_factors_and_the_logits_and_nothing_else() -> None:
    features, weight, targets, directions = (each.bfloat16().double() for each in factors(5, 50, 0.5))
    f, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
    rounded = (targets @ directions.T).bfloat16().double()
    straight = f @ w.T
    expected = formula("kl", straight + (straight.bfloat16().double() - straight).detach(), rounded)
    student = Outputs(features.float().requires_grad_(), weight.float().requires_grad_())
    teacher = Outputs(targets.float(), directions.float())
    found = wide_distance("kl", student, teacher, product=torch.bfloat16, columns=16)
    torch.testing.assert_close([each.double() for each in found], list(expected), rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(found.loss, student[:2])
    for mine, theirs in zip(gradients, torch.autograd.grad(expected[0], (f, w)), strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-2
