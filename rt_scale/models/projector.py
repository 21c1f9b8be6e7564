"""The projector: an MLP and the l2-bottleneck (paper, appendices B.2 and E.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rt_scale.spec.networks import ProjectorSpec, factored, part_flags

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Outputs(NamedTuple):
    """m outputs that are not made yet: logits [rows, m], features times the transpose of weight, are large.

    Attributes:
        features: [rows, k] from the bottleneck.
        weight: [m, k] of linear 2.
        unit: whether the rows of ``weight`` are still to be divided by their l2 norms.
    """

    features: Tensor
    weight: Tensor
    unit: bool = False

    def logits(self) -> Tensor:
        """All of them, [rows, m]."""
        return functional.linear(self.features, unit_rows(self.weight) if self.unit else self.weight)


class Projector(nn.Module):
    """An MLP, then the six parts of the l2-bottleneck, each there or not.

    embedding -> [linear, batch norm, activation] per hidden width -> linear 1 to k -> feature norm 1 (divide by
    the l2 norm) -> linear 2, without bias, to m -> feature norm 2. Weight norm 1 and 2 divide the weight
    vector of every output of linear 1 and 2 by its length. Where linear 2 is left out, linear 1 goes to m; where
    linear 1 is left out, k is the width of the MLP's output; without both, so is m.

    Args:
        embed_dim: width of the embedding.
        spec: widths, parts, activation and batch norm; its ``init`` is not read.

    Attributes:
        feature_width: k, the width of ``features()``.
        out_dim: m, the width of ``logits()``.
    """

    def __init__(self, embed_dim: int, spec: ProjectorSpec) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs = embed_dim
        for outputs in spec.hidden:
            modules.append(nn.Linear(inputs, outputs))
            if spec.batch_norm:
                modules.append(nn.BatchNorm1d(outputs))
            modules.append(ACTIVATIONS[spec.activation]())
            inputs = outputs
        self.mlp = nn.Sequential(*modules)
        self.parts = part_flags(spec.parts)
        self.bottleneck: nn.Module = nn.Identity()
        self.last: nn.Module = nn.Identity()
        if self.parts["linear_1"]:
            outputs = spec.bottleneck if self.parts["linear_2"] else spec.out_dim
            self.bottleneck, inputs = nn.Linear(inputs, outputs), outputs
        self.feature_width = self.out_dim = inputs
        if self.parts["linear_2"]:
            self.last, self.out_dim = nn.Linear(inputs, spec.out_dim, bias=False), spec.out_dim

    def features(self, embedding: Tensor) -> Tensor:
        """Bottleneck features [B, k], of length 1 under feature norm 1, from embeddings [B, embed_dim]."""
        hidden = self.mlp(embedding)
        if isinstance(self.bottleneck, nn.Linear):
            weight = self.bottleneck.weight
            weight = unit_rows(weight) if self.parts["weight_norm_1"] else weight
            hidden = functional.linear(hidden, weight, self.bottleneck.bias)
        return functional.normalize(hidden, dim=1) if self.parts["feature_norm_1"] else hidden

    def directions(self) -> Tensor | None:
        """The weight [m, k] that linear 2 acts with, with gradient; None where there is no linear 2."""
        if not isinstance(self.last, nn.Linear):
            return None
        return unit_rows(self.last.weight) if self.parts["weight_norm_2"] else self.last.weight

    def logits(self, features: Tensor, directions: Tensor | None = None) -> Tensor:
        """Logits [B, m] from bottleneck features [B, k]; with the paper's parts cosines, so in [-1, 1].

        Args:
            features: as ``features()`` gives them.
            directions: ``directions()`` computed before, where the weight is constant, as a frozen teacher's.
        """
        weight = self.directions() if directions is None else directions
        logits = features if weight is None else functional.linear(features, weight)
        return functional.normalize(logits, dim=1) if self.parts["feature_norm_2"] else logits

    @property
    def factored(self) -> bool:
        """Whether ``outputs`` can be had: logits are features times a weight, and nothing else is done to them."""
        return factored(self.parts)

    def outputs(self, features: Tensor, directions: Tensor | None = None) -> Outputs:
        """What ``logits`` makes of the same, not made yet; of a projector that is ``factored``."""
        if directions is not None:
            return Outputs(features, directions)
        return Outputs(features, self.last.get_parameter("weight"), unit=self.parts["weight_norm_2"])

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits [B, m] from embeddings [B, embed_dim]."""
        return self.logits(self.features(embedding))


def unit_rows(weight: Tensor) -> Tensor:
    """The rows of ``weight`` [m, k] divided by their l2 norms, [m, k].

    By torch's fused weight normalisation, which keeps the norms alone for the backward pass: the composed form
    takes twice the time at 65,536 x 256.
    """
    return torch._weight_norm(weight, weight.new_ones(weight.shape[0], 1), 0)
