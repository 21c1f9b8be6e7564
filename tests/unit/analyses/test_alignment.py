"""Weight matching: the nearest order of units, never a further one, and the order of a copy restored."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.analyses.alignment import Aligned, align, reordered
from rt_scale.analyses.units import Group, Member, hidden_units
from rt_scale.models.networks import Weights
from tests.unit.analyses.test_units import ENCODERS, drawn, random_orders


def aligned(reference: Weights, other: Weights, groups: tuple[Group, ...], seed: int = 0) -> Aligned:
    return align(reference, other, groups, torch.Generator().manual_seed(seed))


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def distance(first: Weights, second: Weights, network: nn.Module) -> float:
    """Over parameters, not statistics."""
    return sum(float((first[name] - second[name]).square().sum()) for name, _ in network.named_parameters()) ** 0.5


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: "-".join(map(str, encoder.values())))
def test_a_permuted_copy_becomes_the_original(encoder: dict[str, Any]) -> None:
    network = drawn(encoder)
    groups, weights = hidden_units(network, 3, 32), copied(network)
    orders = random_orders(groups, 1)
    found = aligned(weights, reordered(weights, groups, orders), groups)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())
    units = torch.cat([order != torch.arange(len(order)) for order in orders])
    assert found.moved == pytest.approx(float(units.double().mean()))


def test_a_reference_without_units() -> None:
    weights = copied(drawn({"name": "flatten"}, {"hidden": [], "parts": "-/lb/-/-/-/-"}))
    assert aligned(weights, weights, ()) == Aligned(weights, 0.0)


@pytest.mark.parametrize("norm", ["batch", "group8"])
def test_two_networks_come_nearer_and_compute_what_they_did(norm: str) -> None:
    encoder = {"name": "resnet18", "width": 0.125, "norm": norm}
    network, other = drawn(encoder), drawn(encoder, seed=1)
    groups, weights = hidden_units(network, 3, 32), copied(other)
    found = aligned(network.state_dict(), weights, groups)
    assert distance(network.state_dict(), found.weights, network) < distance(network.state_dict(), weights, network)
    assert 0.5 < found.moved <= 1
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = other(images)
    other.load_state_dict(found.weights)
    assert torch.allclose(other(images), before, rtol=1e-10)
    assert all(torch.equal(weights[name], copied(drawn(encoder, seed=1))[name]) for name in weights)


def test_a_network_next_to_the_reference_keeps_its_order() -> None:
    network = drawn({"name": "resnet20", "width": 0.25})
    groups, weights = hidden_units(network, 3, 32), copied(network)
    near = {name: tensor + 1e-3 * torch.randn_like(tensor.double()) for name, tensor in weights.items()}
    assert aligned(weights, near, groups).moved == 0


@pytest.mark.parametrize("seed", range(4))
def test_one_hidden_layer_gets_the_best_of_all_orders(seed: int) -> None:
    """By trying all 5! of them."""
    fields = {"hidden": [5], "parts": "-/-/-/-/l/-", "out_dim": 3}
    network, other = (drawn({"name": "flatten"}, fields, seed=each) for each in (seed, seed + 10))
    groups, reference, weights = hidden_units(network, 3, 32), copied(network), copied(other)
    assert [group.size for group in groups] == [5]
    orders = [[torch.tensor(order)] for order in itertools.permutations(range(5))]
    best = min(distance(reference, reordered(weights, groups, order), network) for order in orders)
    assert distance(reference, aligned(reference, weights, groups).weights, network) == pytest.approx(best)


def test_blocks_get_the_best_of_all_orders_that_keep_them_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, other = ({"weight": torch.randn(6, 4, generator=generator)} for _ in range(2))
    groups = (Group(6, 3, (Member("weight", (6, 4), 0, learned=True),)),)
    allowed = [
        torch.tensor([*(3 * blocks[0] + i for i in first), *(3 * blocks[1] + i for i in second)])
        for blocks in ((0, 1), (1, 0))
        for first in itertools.permutations(range(3))
        for second in itertools.permutations(range(3))
    ]
    best = min(float((reference["weight"] - other["weight"][order]).square().sum()) for order in allowed)
    found = aligned(reference, other, groups).weights["weight"]
    assert float((reference["weight"] - found).square().sum()) == pytest.approx(best)


def test_a_weight_with_both_its_dimensions_in_one_group_never_makes_it_worse() -> None:
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), Residual(), nn.Linear(6, 2)).double()
    groups = hidden_units(network, 3, 2)
    assert [group.size for group in groups] == [6]
    for _ in range(20):
        pair = [
            {name: torch.randn(tensor.shape, generator=generator).double() for name, tensor in copied(network).items()}
            for _ in range(2)
        ]
        found = aligned(*pair, groups)
        assert distance(pair[0], found.weights, network) <= distance(*pair, network) + 1e-9


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + torch.relu(self.layer(hidden))


def test_statistics_follow_and_do_not_decide() -> None:
    network, other = (drawn({"name": "convnet_4_2", "norm": "batch"}, seed=seed) for seed in (0, 1))
    groups = hidden_units(network, 3, 32)
    weights = copied(other)
    name = "encoder.features.1.running_mean"
    found = aligned(network.state_dict(), weights, groups)
    assert sorted(found.weights[name].tolist()) == sorted(weights[name].tolist())
    again = aligned(network.state_dict(), weights | {name: 100 * weights[name].flip(0)}, groups)
    assert torch.equal(again.weights["encoder.features.0.weight"], found.weights["encoder.features.0.weight"])


def test_the_generator_decides_the_order_of_the_groups_alone() -> None:
    network, other = (drawn({"name": "vgg11", "width": 0.125}, seed=seed) for seed in (0, 1))
    groups, weights = hidden_units(network, 3, 32), copied(other)
    runs = [aligned(network.state_dict(), weights, groups, seed) for seed in (0, 0, 1, 2, 3, 4)]
    distances = [distance(network.state_dict(), run.weights, network) for run in runs]
    assert distances[0] == distances[1]
    assert len(set(distances)) > 1
