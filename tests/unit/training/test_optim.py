from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.spec.training import OptimizerSpec
from rt_scale.training.optim import build_optimizer

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
