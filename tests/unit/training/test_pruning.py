"""Masks by magnitude, and that they hold."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch
from rt_scale.training.loop import Measured, Step, compute_gradients
from rt_scale.training.pruning import Kept, Mask, all_kept, emptied, prunable, pruned, read_mask, save_mask, shares


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2, bias=False))
    )


def weights(*values: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(each) for name, each in zip("abc", values, strict=False)}


def kept(weights: dict[str, Tensor], fraction: float, scope: str = "global", rounds: int = 1) -> dict[str, list[int]]:
    left: Kept = all_kept(weights, weights)
    for _ in range(rounds):
        left = pruned(weights, left, fraction, scope)
    return {name: mask.int().tolist() for name, mask in left.items()}


def test_weights_are_those_of_convolutions_and_linear_layers() -> None:
    assert prunable(network(), "weights") == ["0.weight", "3.weight", "4.0.weight"]
    assert prunable(network(), "all") == [name for name, _ in network().named_parameters()]


def test_the_smallest_go_whatever_their_sign_and_tensor() -> None:
    given = weights([-5.0, 0.1, 3.0], [[0.2, -0.3], [4.0, 2.0]])  # type: ignore[list-item]
    assert kept(given, 0.4) == {"a": [1, 0, 1], "b": [[0, 0], [1, 1]]}
    assert kept(given, 0.4, "layer") == {"a": [1, 0, 0], "b": [[0, 0], [1, 1]]}


def test_equal_magnitudes_go_by_position() -> None:
    given = weights([1.0, -1.0, 1.0], [1.0, 0.5])
    assert kept(given, 0.2) == {"a": [1, 1, 1], "b": [1, 0]}
    assert kept(given, 0.2, rounds=2) == {"a": [0, 1, 1], "b": [1, 0]}
    assert kept(given, 0.6) == {"a": [0, 0, 1], "b": [1, 0]}


@pytest.mark.parametrize("fraction", [0.2, 0.1, 0.3, 0.5])
def test_counts_are_of_what_is_left_rounded_up(fraction: float) -> None:
    given = {"a": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    left = 1000
    for rounds in range(1, 25):
        left -= math.ceil(fraction * left)
        mask = kept(given, fraction, rounds=rounds)["a"]
        assert sum(mask) == left


def test_pruned_weights_never_return_even_if_they_are_large() -> None:
    before = {"a": torch.tensor([True, False, True, True])}
    left = pruned(weights([1.0, 100.0, 2.0, 3.0]), before, 0.2, "global")
    assert left["a"].tolist() == [False, False, True, True]


def test_float32_and_float64_are_compared_alike_in_any_layout() -> None:
    given = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    given[:, :, 0] = 1.0
    masks = [
        pruned({"a": each}, all_kept({"a": each}, "a"), 0.5, "global")["a"]
        for each in (given, given.double(), given.to(memory_format=torch.channels_last))
    ]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_layers_that_let_nothing_pass() -> None:
    none, some = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    assert emptied({"conv.weight": none, "norm.bias": none, "head.weight": some, "norm.weight": some}) == ["conv"]
    assert emptied({"norm.weight": none}) == ["norm"]


def test_shares_of_weights_that_are_left() -> None:
    mask = {"a.weight": torch.tensor([True, False, False, False]), "a.bias": torch.tensor([True])}
    assert shares(mask) == {"sparsity/left": 0.4, "sparsity/a": 0.25, "sparsity/a.bias": 1.0}


def test_a_bit_a_weight_in_a_file(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in network().named_parameters()}
    save_mask(tmp_path / "mask", given)
    again = read_mask(tmp_path / "mask", dict(network().named_parameters()))
    assert list(again) == list(given)
    assert all(torch.equal(again[name], each) for name, each in given.items())
    large = {"a": torch.ones(80_000, dtype=torch.bool)}
    save_mask(tmp_path / "mask", large)
    assert 10_000 <= (tmp_path / "mask").stat().st_size < 10_200
    assert read_mask(tmp_path / "mask", {"b": torch.zeros(2)}) == {}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weights_stay_0_under_momentum_and_decay_and_gradients_do_not_count(name: str) -> None:
    model = network().double()
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        if name == "sgd"
        else torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    )
    batch = Batch(
        torch.ones(2, 1, 3, 3).double() * torch.tensor([1.0, -2.0]).view(2, 1, 1, 1), torch.zeros(2), torch.arange(2)
    )

    def objective(model: nn.Module, batch: Batch, step: int) -> Measured:
        return Measured(model(batch.images).square().sum(), {})

    def step(gradients: object) -> None:
        optimizer.zero_grad()
        gradients(Step(model, objective, batch, 0))  # type: ignore[operator]
        optimizer.step()

    step(compute_gradients)  # momentum of weights that are pruned afterwards
    parameters = {key: each for key, each in model.named_parameters() if key.endswith("weight")}
    left = pruned(parameters, all_kept(parameters, parameters), 0.5, "global")
    mask = Mask(model, optimizer, left)
    for _ in range(5):
        for key, each in left.items():
            assert (parameters[key].detach()[~each] == 0).all()
        step(mask.gradients(compute_gradients))
        for key, each in left.items():
            gradient = parameters[key].grad
            assert gradient is not None
            assert (gradient[~each] == 0).all()
    assert any((parameters[key].detach()[each] != 0).any() for key, each in left.items())
    assert mask.kept is left
