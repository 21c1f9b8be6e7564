from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rt_scale.models.networks import initialise
from rt_scale.models.projector import Projector
from rt_scale.spec.networks import ProjectorSpec


def build(**sizes: Any) -> Projector:
    spec = ProjectorSpec.model_validate({"hidden": (10, 9), "bottleneck": 4, "out_dim": 7} | sizes)
    return initialise(Projector(12, spec), torch.Generator().manual_seed(0))


def embeddings(width: int = 12) -> torch.Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("hidden", [(), (3,), (10, 9), (8, 8, 8)])
def test_each_hidden_layer_is_followed_by_gelu(hidden: tuple[int, ...]) -> None:
    projector = build(hidden=hidden)
    kinds = [type(module) for module in projector.mlp]
    assert kinds == [nn.Linear, nn.GELU] * len(hidden)
    assert [module.out_features for module in projector.mlp if isinstance(module, nn.Linear)] == list(hidden)
    assert projector(embeddings()).shape == (5, 7)


@pytest.mark.parametrize("out_dim", [1, 2, 1000])
@pytest.mark.parametrize("bottleneck", [1, 4])
def test_any_output_dimension(out_dim: int, bottleneck: int) -> None:
    projector = build(out_dim=out_dim, bottleneck=bottleneck)
    logits = projector(embeddings())
    assert logits.shape == (5, out_dim)
    assert logits.abs().max() <= 1 + 1e-6


def test_the_largest_output_dimension_keeps_one_copy_of_the_weight_for_the_backward_pass() -> None:
    projector = build(bottleneck=256, out_dim=65536)
    weight = projector.last.weight
    kept: set[int] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == weight.numel() and tensor.data_ptr() != weight.data_ptr():
            kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = projector(embeddings())
    assert logits.shape == (5, 65536)
    assert len(kept) == 1


def test_features_have_length_one_and_directions_too() -> None:
    projector = build()
    torch.testing.assert_close(projector.features(embeddings()).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(projector.directions().norm(dim=1), torch.ones(7))


def test_forward_is_logits_of_features() -> None:
    projector = build()
    assert torch.equal(projector(embeddings()), projector.logits(projector.features(embeddings())))


def test_directions_computed_before_are_used() -> None:
    projector = build()
    features, directions = projector.features(embeddings()), projector.directions()
    before = projector.logits(features)
    with torch.no_grad():
        projector.last.weight.normal_(generator=torch.Generator().manual_seed(3))
    assert torch.equal(projector.logits(features, directions), before)
    assert not torch.allclose(projector.logits(features), before)


def test_only_the_last_layer_has_no_bias() -> None:
    projector = build()
    without = [name for name, module in projector.named_modules() if getattr(module, "bias", 0) is None]
    assert without == ["last"]


def test_the_length_of_the_last_weights_does_not_matter() -> None:
    projector = build()
    before = projector(embeddings())
    with torch.no_grad():
        projector.last.weight.mul_(torch.linspace(0.1, 30, 7).unsqueeze(1))
    torch.testing.assert_close(projector(embeddings()), before)
