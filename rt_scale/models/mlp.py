"""Encoders without convolutions: multi-layer perceptrons and the pixels themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder


class RectifiedLinear(nn.Linear):
    """A linear layer that a ReLU follows, so that its weights are drawn as those of convolutions are."""


class MLP(Encoder):
    """``depth`` times linear layer and ReLU on the flattened image; the last is the embedding.

    Args:
        inputs: numbers of an image, channels times pixels.
        units: width of every layer.
        depth: number of layers.
    """

    def __init__(self, *, inputs: int, units: int, depth: int) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in range(depth):
            modules += [RectifiedLinear(inputs if layer == 0 else units, units), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*modules)
        self.embed_dim = units

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, units] of images [B, C, H, W]."""
        embedding: Tensor = self.layers(torch.flatten(images, 1))
        return embedding


class Flatten(Encoder):
    """The pixels as they are, without parameters: table 5's row 'none'.

    Args:
        inputs: numbers of an image, channels times pixels.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, C H W] of images [B, C, H, W], channel by channel."""
        return torch.flatten(images, 1)
