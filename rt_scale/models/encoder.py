"""What every encoder is."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """A network from normalised images [B, C, H, W] to embeddings [B, embed_dim].

    Attributes:
        embed_dim: width of an embedding.
    """

    embed_dim: int
