from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.probing.linear import linear_probe, train_classifier


def clouds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    return centres[y] + torch.randn(n, 2, generator=generator), y


def train(seed: int = 0, **changes: Any) -> Tensor:
    arguments: dict[str, Any] = {"classes": 3, "epochs": 2, "batch_size": 8, "lr": 1e-3} | changes
    return train_classifier(*clouds(50, 0), generator=torch.Generator().manual_seed(seed), **arguments).weight


def test_equal_arguments_give_equal_classifiers() -> None:
    assert torch.equal(train(), train())


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 3}, {"batch_size": 9}, {"lr": 2e-3}])
def test_every_argument_matters(change: dict[str, Any]) -> None:
    assert not torch.allclose(train(), train(**change))


def test_there_is_one_output_a_class() -> None:
    assert train(classes=7).shape == (7, 2)


def test_defaults_are_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    default = train_classifier(*clouds(600, 0), classes=3, generator=generator).weight
    generator.manual_seed(0)
    paper = train_classifier(*clouds(600, 0), classes=3, generator=generator, epochs=10, batch_size=256, lr=1e-3)
    assert torch.equal(default, paper.weight)
    arguments = {"classes": 3, "generator": generator.manual_seed(0)}
    probed = linear_probe(*clouds(600, 0), *clouds(200, 1), **arguments)
    x, y = clouds(200, 1)
    assert probed == (paper.logits(x).argmax(dim=1) == y).sum().item() / 200


def test_separable_classes_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    accuracy = linear_probe(
        *clouds(400, 0), *clouds(200, 1), classes=3, generator=generator, epochs=8, batch_size=16, lr=0.05
    )
    assert accuracy > 0.95


def test_accuracy_is_measured_on_the_test_split() -> None:
    x, y = clouds(200, 1)
    arguments: dict[str, Any] = {"classes": 3, "epochs": 3, "batch_size": 16, "lr": 0.1}
    right, wrong = (
        linear_probe(*clouds(400, 0), x, labels, generator=torch.Generator().manual_seed(0), **arguments)
        for labels in (y, (y + 1) % 3)
    )
    assert right > 0.95
    assert wrong < 0.05


def test_no_global_random_state_and_no_gradient() -> None:
    before = torch.get_rng_state()
    assert not train().requires_grad
    assert torch.equal(torch.get_rng_state(), before)
