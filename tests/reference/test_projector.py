"""The projector against its formula, written out sample by sample in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rt_scale.models.networks import initialise
from rt_scale.models.projector import Projector, unit_rows
from rt_scale.spec.networks import ProjectorSpec


def naive(projector: Projector, embedding: Tensor) -> Tensor:
    """Logits [m] of one embedding [D]."""
    hidden = embedding
    for layer in (projector.mlp[0], projector.mlp[2]):
        sums = [(row * hidden).sum() + bias for row, bias in zip(layer.weight, layer.bias, strict=True)]
        hidden = torch.stack([x * 0.5 * (1 + torch.erf(x / math.sqrt(2))) for x in sums])
    features = projector.bottleneck.weight @ hidden + projector.bottleneck.bias
    features = features / features.square().sum().sqrt()
    return torch.stack([(row * features).sum() / row.square().sum().sqrt() for row in projector.last.weight])


def projector_and_embeddings() -> tuple[Projector, Tensor]:
    generator = torch.Generator().manual_seed(0)
    projector = initialise(Projector(6, ProjectorSpec(hidden=(5, 4), bottleneck=3, out_dim=7)), generator).double()
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return projector, torch.randn(4, 6, generator=generator, dtype=torch.float64)


def test_logits_follow_the_formula() -> None:
    projector, embeddings = projector_and_embeddings()
    expected = torch.stack([naive(projector, embedding) for embedding in embeddings])
    torch.testing.assert_close(projector(embeddings), expected)


def test_gradients_follow_the_formula() -> None:
    projector, embeddings = projector_and_embeddings()
    parameters = list(projector.parameters())
    ours = torch.autograd.grad(projector(embeddings).square().sum(), parameters)
    expected = torch.stack([naive(projector, embedding) for embedding in embeddings]).square().sum()
    for mine, theirs in zip(ours, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_gradients_reach_the_weight_through_its_length() -> None:
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(unit_rows, weight.requires_grad_())
    grad = torch.autograd.grad(unit_rows(weight).pow(3).sum(), weight)[0]
    # A unit vector does not change with its weight's length: the gradient is orthogonal to the weight.
    torch.testing.assert_close((grad * weight).sum(dim=1), torch.zeros(5, dtype=torch.float64))
