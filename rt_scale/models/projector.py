"""The projector: an MLP and the l2-bottleneck (paper, appendix E.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """MLP with GELU, then linear, l2-normalisation, and a linear layer of unit weight vectors.

    embedding -> [linear, GELU] per hidden width -> linear to k -> divide by its l2 norm
    -> inner products with m unit vectors of length k.

    Args:
        embed_dim: width of the embedding.
        hidden: widths of the hidden layers; may be empty.
        bottleneck: k.
        out_dim: m.
    """

    def __init__(self, embed_dim: int, hidden: Sequence[int], bottleneck: int, out_dim: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs = embed_dim
        for outputs in hidden:
            modules += [nn.Linear(inputs, outputs), nn.GELU()]
            inputs = outputs
        self.mlp = nn.Sequential(*modules)
        self.bottleneck = nn.Linear(inputs, bottleneck)
        self.last = nn.Linear(bottleneck, out_dim, bias=False)

    def features(self, embedding: Tensor) -> Tensor:
        """Bottleneck features [B, k] of length 1 from embeddings [B, embed_dim]."""
        return functional.normalize(self.bottleneck(self.mlp(embedding)), dim=1)

    def directions(self) -> Tensor:
        """The last layer's weight vectors [m, k] divided by their lengths, with gradient to the weight."""
        return unit_rows(self.last.weight)

    def logits(self, features: Tensor, directions: Tensor | None = None) -> Tensor:
        """Logits [B, m] from bottleneck features [B, k]: cosines, so in [-1, 1].

        Args:
            features: as ``features()`` gives them.
            directions: ``directions()`` computed before, where the weight is constant (a frozen
                teacher's: 67 MB at m = 65,536, k = 256, not to be made anew at every step).
        """
        return functional.linear(features, self.directions() if directions is None else directions)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits [B, m] from embeddings [B, embed_dim]."""
        return self.logits(self.features(embedding))


def unit_rows(weight: Tensor) -> Tensor:
    """The rows of ``weight`` [m, k] divided by their l2 norms, [m, k].

    torch's fused weight normalisation at scale 1: it keeps the norms alone for the backward pass, where
    the composed form keeps and moves several copies of the weight (twice the time at 65,536 x 256).
    """
    return torch._weight_norm(weight, weight.new_ones(weight.shape[0], 1), 0)
