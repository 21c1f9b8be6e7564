"""Small networks that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import torch

from rt_scale.models.networks import Network, build_network
from rt_scale.spec.run import RunSpec


def spec(**fields: Any) -> RunSpec:
    base: dict[str, Any] = {
        "data": {"name": "digits"},
        "encoder": {"name": "convnet_4_2", "norm": "batch"},
        "projector": {"hidden": [6], "bottleneck": 3, "out_dim": 5},
        "student": {"alpha": 0.5},
    }
    return RunSpec.model_validate(base | fields)


def draw(seed: int, **fields: Any) -> Network:
    return build_network(spec(**fields), 1, 8, torch.Generator().manual_seed(seed))


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


EVERY_LAYER: list[dict[str, Any]] = [
    *({"name": "resnet18", "width": 0.125, "norm": norm} for norm in ("batch", "instance", "group8", "layer", "none")),
    {"name": "resnet50", "width": 0.0625},
    {"name": "resnet20", "width": 0.25},
    {"name": "preresnet50", "width": 0.0625},
    {"name": "vgg11", "width": 0.0625, "norm": "batch"},
    {"name": "convnet_4_2", "norm": "batch"},
    {"name": "vit_tiny", "width": 0.0625},
    {"name": "vit_tiny_shared", "width": 0.0625, "attention": "heads"},
    {"name": "mlp_8_2"},
    {"name": "flatten"},
]
