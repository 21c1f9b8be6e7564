"""The projector: an MLP and the l2-bottleneck (paper, appendices B.2 and E.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rt_scale.spec.networks import ProjectorSpec, factored, part_flags

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Outputs(NamedTuple):
    """The factors of logits [rows, m] = features weight^T + shift, which are too large to compute early.

    Attributes:
        features: [rows, k] from the bottleneck.
        weight: [m, k] of linear 2.
        unit: whether the rows of ``weight`` must still be divided by their l2 norms.
        shift: [m] without gradient, or None for 0.
    """

    features: Tensor
    weight: Tensor
    unit: bool = False
    shift: Tensor | None = None

    def logits(self) -> Tensor:
        """The logits, [rows, m]."""
        return functional.linear(self.features, unit_rows(self.weight) if self.unit else self.weight, self.shift)


class Projector(nn.Module):
    """An MLP, then the six optional parts of the l2-bottleneck.

    embedding -> [linear, batch norm, activation] per hidden width -> linear 1 to k -> feature norm 1 (division by the
    l2 norm) -> linear 2, without bias, to m -> feature norm 2. Weight norms 1 and 2 divide the weight vector of each
    output of linear 1 and 2 by its length. Without linear 2, linear 1 has m outputs; without linear 1, k is the width
    of the MLP's output; without both, so is m.

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
        """The weight [m, k] of linear 2 after weight norm 2, with gradient; None without linear 2."""
        if not isinstance(self.last, nn.Linear):
            return None
        return unit_rows(self.last.weight) if self.parts["weight_norm_2"] else self.last.weight

    def logits(self, features: Tensor, directions: Tensor | None = None) -> Tensor:
        """Logits [B, m] from bottleneck features [B, k]; with the paper's parts they are cosines, in [-1, 1].

        ``directions`` can be a saved ``directions()`` if the weight is constant, as a frozen teacher's.
        """
        weight = self.directions() if directions is None else directions
        logits = features if weight is None else functional.linear(features, weight)
        return functional.normalize(logits, dim=1) if self.parts["feature_norm_2"] else logits

    @property
    def factored(self) -> bool:
        """Whether logits are just features times a weight, which ``outputs`` needs."""
        return factored(self.parts)

    def outputs(self, features: Tensor, directions: Tensor | None = None) -> Outputs:
        """The factors of ``logits`` with the same arguments; for a ``factored`` projector only."""
        if directions is not None:
            return Outputs(features, directions)
        return Outputs(features, self.last.get_parameter("weight"), unit=self.parts["weight_norm_2"])

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits [B, m] from embeddings [B, embed_dim]."""
        return self.logits(self.features(embedding))


def unit_rows(weight: Tensor) -> Tensor:
    """The rows of ``weight`` [m, k] divided by their l2 norms, [m, k].

    torch's fused weight normalisation saves only the norms for the backward pass; the composed form takes twice the
    time at 65,536 x 256.
    """
    return torch._weight_norm(weight, weight.new_ones(weight.shape[0], 1), 0)
