"""Any order of a group's units leaves a network's outputs as they were."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from rt_scale.analyses.alignment import reordered
from rt_scale.analyses.units import Group, hidden_units
from rt_scale.models.networks import build_network
from rt_scale.spec.run import RunSpec
from tests.unit.models.networks import EVERY_LAYER

NORMS = ("batch", "instance", "group8", "layer", "none")
ENCODERS: list[dict[str, Any]] = [
    *EVERY_LAYER,
    *({"name": "convnet_16_3", "norm": norm} for norm in NORMS),
    *({"name": "vgg11", "width": 0.125, "norm": norm} for norm in NORMS),
    *({"name": "preresnet18", "width": 0.125, "norm": norm} for norm in NORMS),
    {"name": "vit_tiny_shared", "width": 0.0625},
]
PROJECTORS: list[dict[str, Any]] = [
    {},
    {"parts": "wn/lb/fn/wn/l/fn", "batch_norm": True, "activation": "relu"},
    {"parts": "-/-/fn/-/l/-"},
    {"parts": "-/lb/-/-/-/-", "hidden": []},
]


def random_orders(groups: tuple[Group, ...], seed: int) -> list[Tensor]:
    """Blocks in a random order, and in each its units."""
    generator, orders = torch.Generator().manual_seed(seed), []
    for group in groups:
        blocks = torch.randperm(group.size // group.block, generator=generator).tolist()
        inner = [torch.randperm(group.block, generator=generator) for _ in blocks]
        orders.append(torch.cat([block * group.block + order for block, order in zip(blocks, inner, strict=True)]))
    return orders


def drawn(encoder: dict[str, Any], projector: dict[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """In float64, with norms whose scales, shifts and statistics tell the units apart."""
    fields = {"hidden": [12, 10], "bottleneck": 6, "out_dim": 20} | (projector or {})
    spec = RunSpec.model_validate({"data": {"name": "cifar10"}, "encoder": encoder, "projector": fields})
    generator = torch.Generator().manual_seed(seed)
    network = build_network(spec, 3, 32, generator).double().eval()
    for tensor in network.state_dict().values():
        if tensor.dim() == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network


def changed_by_reordering(network: nn.Module, groups: tuple[Group, ...], images: Tensor) -> float:
    """Largest difference of outputs, relative to the largest output."""
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        before = network(images)
        network.load_state_dict(reordered(weights, groups, random_orders(groups, 1)))
        after = network(images)
        network.load_state_dict(weights)
    return float((before - after).abs().max() / before.abs().max())


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: "-".join(map(str, encoder.values())))
def test_the_outputs_do_not_change(encoder: dict[str, Any]) -> None:
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for projector in PROJECTORS:
        network = drawn(encoder, projector)
        groups = hidden_units(network, 3, 32)
        assert changed_by_reordering(network, groups, images) < 1e-10
        members = [(member.name, member.axis) for group in groups for member in group.members]
        assert len(members) == len(set(members))


def test_every_hidden_layer_of_our_own_encoders_has_a_group() -> None:
    """Attention over heads alone keeps the order of its queries, keys and values."""
    for encoder in ENCODERS:
        network = drawn(encoder)
        of_groups = {member.name for group in hidden_units(network, 3, 32) for member in group.members}
        missing = {name for name, _ in network.named_parameters() if name not in of_groups}
        assert missing == ({"encoder.blocks.0.attention.query_key_value.bias"} if "attention" in encoder else set())


def test_the_groups_of_a_residual_network() -> None:
    sizes = {"stem": 8, "stage": [8, 16, 32, 64]}
    groups = hidden_units(drawn({"name": "resnet18", "width": 0.125, "norm": "group8"}), 3, 32)
    streams = {group.size: group for group in groups if len(group.members) > 5 and group.size in sizes["stage"]}
    assert [(group.size, group.block) for group in streams.values()] == [(8, 1), (16, 8), (32, 8), (64, 8)]
    assert {"encoder.conv1.weight", "encoder.layer1.1.conv2.weight", "encoder.layer2.0.downsample.0.weight"} <= {
        member.name for member in streams[8].members
    }
    assert "projector.mlp.0.weight" in {member.name for member in streams[64].members}


def test_flattened_maps_keep_the_positions_of_a_channel_together() -> None:
    groups = hidden_units(drawn({"name": "convnet_16_3"}), 3, 32)
    (member,) = [each for group in groups for each in group.members if each.name == "projector.mlp.0.weight"][:1]
    assert (member.shape, member.axis) == ((12, 16, 2, 2), 1)


def test_heads_are_blocks() -> None:
    groups = hidden_units(drawn({"name": "vit_tiny", "width": 0.125}), 3, 32)
    heads = [group for group in groups if group.block > 1]
    assert len(heads) == 12
    assert {(group.size, group.block) for group in heads} == {(24, 8)}
    assert heads[0].members[0].shape == (3, 24, 24)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "convnext_tiny", "test_vit2"])
def test_networks_of_libraries(name: str) -> None:
    torch.manual_seed(0)
    own = name == "test_vit2"
    network = timm.create_model(name, img_size=32, patch_size=8) if own else torchvision.models.get_model(name)
    network = network.double().eval()
    groups = hidden_units(network, 3, 32)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert len(groups) > 5
    assert changed_by_reordering(network, groups, images) < 1e-10


class Own(nn.Module):
    """What has no rule, and rules at their edges: each layer's units may change or not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4)
        self.pointwise, self.head_scale = nn.Linear(8, 8), nn.Parameter(torch.rand(4))
        self.query_key_value, self.output = nn.Linear(8, 24), nn.Linear(8, 8)
        self.summed, self.last, self.unused = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.avg_pool2d(self.grouped(torch.relu(self.first(images))), 4).flatten(2).transpose(1, 2)
        tokens = maps + self.pointwise(maps)
        query, key, value = self.query_key_value(tokens).unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
        query = functional.layer_norm(query, (4,), self.head_scale)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        joined = torch.cat([tokens, self.output(mixed)], dim=1)[:, 1:]
        return self.last(torch.cumsum(functional.gelu(self.summed(joined)), -1))[:, -1]


def test_a_network_of_any_functions() -> None:
    torch.manual_seed(0)
    network = Own().double()
    groups = hidden_units(network, 3, 16)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert changed_by_reordering(network, groups, images) < 1e-10
    found = {(member.name, member.axis): group for group in groups for member in group.members}
    assert {name for name, _ in found}.isdisjoint({"unused.weight", "unused.bias", "grouped.weight", "first.weight"})
    assert {"query_key_value.weight", "head_scale"} <= {name for name, _ in found}
    assert {group.block for group in groups} == {1}
    assert not {name for name, _ in found} & {"summed.bias", "last.bias"}


def test_the_network_is_not_changed() -> None:
    network = drawn({"name": "convnet_4_2", "norm": "batch"}).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    hidden_units(network, 3, 32)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
