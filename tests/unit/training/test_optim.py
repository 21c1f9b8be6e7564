"""Optimisers by name, and what changes from step to step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.spec.training import OptimizerSpec
from rt_scale.training.optim import UpdateRules, build_optimizer

PLAIN: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    return [nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def after_steps(optimizer: torch.optim.Optimizer, updated: list[nn.Parameter]) -> Tensor:
    """All parameters after 5 steps on a function whose gradient changes with them."""
    for step in range(5):
        optimizer.zero_grad()
        for parameter in updated:
            parameter.grad = torch.sin(parameter.detach() * (step + 1)) + parameter.detach()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in updated])


def run(**fields: Any) -> Tensor:
    updated = parameters()
    return after_steps(build_optimizer(OptimizerSpec(**fields), updated), updated)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "adam", "lr": 0.01},
        {"name": "adam", "lr": 0.01, "weight_decay": 0.1},
        {"name": "adamw", "lr": 0.01},
        {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        {"name": "sgd", "lr": 0.01},
        {"name": "sgd", "lr": 0.01, "weight_decay": 0.1, "momentum": 0.9},
    ],
)
def test_each_is_torchs_plain_one(fields: dict[str, Any]) -> None:
    updated = parameters()
    settings = {"weight_decay": 0.0} | {name: value for name, value in fields.items() if name != "name"}
    plain = PLAIN[fields["name"]](updated, **settings)
    torch.testing.assert_close(run(**fields), after_steps(plain, updated), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"name": "adam", "weight_decay": 0.1}, {"name": "adamw", "weight_decay": 0.1}),
        ({"name": "adamw"}, {"name": "sgd"}),
        ({"lr": 0.001}, {"lr": 0.002}),
        ({"weight_decay": 0.0}, {"weight_decay": 0.1}),
        ({"name": "sgd", "momentum": 0.0}, {"name": "sgd", "momentum": 0.5}),
    ],
)
def test_every_field_counts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not torch.allclose(run(**one), run(**other), rtol=1e-7)


def test_what_is_frozen_is_left_out() -> None:
    frozen, trained = parameters()
    frozen.requires_grad_(False)
    optimizer = build_optimizer(OptimizerSpec(), [frozen, trained])
    assert [each is trained for group in optimizer.param_groups for each in group["params"]] == [True]


def twos() -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((2, 2), 2.0)), nn.Parameter(torch.full((3,), 2.0))]


def rules(updated: list[nn.Parameter], steps: int = 4, **fields: Any) -> UpdateRules:
    frozen = {name: fields.pop(name) for name in ("frozen", "frozen_steps") if name in fields}
    spec = OptimizerSpec(**{"name": "sgd", "lr": 1.0, **fields})
    return UpdateRules(build_optimizer(spec, updated), spec, steps=steps, steps_per_epoch=2, **frozen)


def update(rule: UpdateRules, updated: list[nn.Parameter], step: int, gradient: float = 1.0) -> None:
    for parameter in updated:
        parameter.grad = torch.full_like(parameter, gradient)
    grads = [parameter.grad for parameter in updated if parameter.grad is not None]
    rule(step, nn.utils.get_total_norm(grads))
    rule.optimizer.step()


def test_schedules_reach_every_group() -> None:
    updated = twos()
    rule = rules(updated, lr="linear(1, 0)", weight_decay="linear(0, 0.4)", decay_norm_and_bias=False)
    seen = []
    for step in range(4):
        update(rule, updated, step)
        seen.append([(group["lr"], group["weight_decay"]) for group in rule.optimizer.param_groups])
    assert seen == [
        [(1.0, 0.0), (1.0, 0.0)],
        [(0.75, pytest.approx(0.1)), (0.75, 0.0)],
        [(0.5, pytest.approx(0.2)), (0.5, 0.0)],
        [(0.25, pytest.approx(0.3)), (0.25, 0.0)],
    ]


@pytest.mark.parametrize("length", ["2it", "1ep", "50%"])
def test_lengths_count_steps_epochs_and_shares(length: str) -> None:
    updated = twos()
    rule = rules(updated, lr=f"constant(0.5, {length}) + constant(0.25)")
    for step, lr in enumerate([0.5, 0.5, 0.25, 0.25]):
        update(rule, updated, step)
        assert rule.optimizer.param_groups[0]["lr"] == lr


@pytest.mark.parametrize("decays", [True, False])
def test_decay_of_biases_and_norms_is_a_choice(decays: bool) -> None:
    updated = twos()
    update(rules(updated, weight_decay=0.5, decay_norm_and_bias=decays), updated, 0, gradient=0.0)
    assert torch.equal(updated[0], torch.full((2, 2), 1.0))
    assert torch.equal(updated[1], torch.full((3,), 1.0 if decays else 2.0))


@pytest.mark.parametrize(("gradient", "clip"), [(3.0, 2.0), (3.0, 100.0), (3.0, None)])
def test_clipping_is_torchs(gradient: float, clip: float | None) -> None:
    updated, expected = twos(), twos()
    update(rules(updated, clip=clip), updated, 0, gradient)
    for parameter in expected:
        parameter.grad = torch.full_like(parameter, gradient)
    if clip is not None:
        nn.utils.clip_grad_norm_(expected, clip)
    torch.optim.SGD(expected, lr=1.0).step()
    for one, other in zip(updated, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_parameters_start_late() -> None:
    updated = twos()
    rule = rules(updated, frozen=updated[1:], frozen_steps=2)
    for step, moved in enumerate([False, False, True]):
        before = updated[1].detach().clone()
        update(rule, updated, step)
        assert torch.equal(before, updated[1]) != moved
        assert updated[0][0, 0].item() == 2.0 - (step + 1)
