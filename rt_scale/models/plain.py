"""Encoders without shortcuts: flattened pixels, MLPs, small conv nets, and VGG for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder, NormLayer
from rt_scale.spec.encoders import convnet_pools, scaled


class RectifiedLinear(nn.Linear):
    """A linear layer before a ReLU, whose weights are initialised as those of convolutions."""


class MLP(Encoder):
    """``depth`` linear layers of ``units`` outputs, each with ReLU, on the ``inputs`` numbers of an image."""

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
    """The ``inputs`` numbers of an image, without parameters: row 'none' of table 5."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, C H W] of images [B, C, H, W], channel by channel."""
        return torch.flatten(images, 1)


_POOLED = 2


class ConvNet(Encoder):
    """``depth`` layers of 3 x 3 convolution, normalisation and ReLU; then averaged to 2 x 2 and flattened.

    2 x 2 max-pools lie between the first layers as long as 8 x 8 or more positions remain. The ReLU comes after the
    pool, where it has a quarter of the values; output and gradient are the same bit for bit.

    Args:
        channels: of the images.
        size: side of the images in pixels, which determines the number of pools.
        layer_channels: channels of every layer.
        norm: makes the layer between convolution (with bias) and ReLU.
    """

    def __init__(self, *, channels: int, size: int, layer_channels: int, depth: int, norm: NormLayer) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs, pools = channels, convnet_pools(size, depth)
        for layer in range(depth):
            if 0 < layer <= pools:
                modules.insert(-1, nn.MaxPool2d(kernel_size=2, stride=2))
            convolution = nn.Conv2d(inputs, layer_channels, kernel_size=3, padding=1)
            modules += [convolution, norm(layer_channels), nn.ReLU(inplace=True)]
            inputs = layer_channels
        self.features = nn.Sequential(*modules)
        self.embed_dim = layer_channels * _POOLED**2

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 2."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), _POOLED), 1)


_VGG_LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions before each pool (Simonyan & Zisserman 2015, table 1: A, B, D and E)."""


class VGG(Encoder):
    """torchvision's VGG without its classifier; the last map (1 x 1 for 32 x 32 pixels) is averaged.

    Without normalisation the weights in ``features`` have torchvision's names, so they can be exchanged with it. The
    ReLU comes after the pool, as in ``ConvNet``.

    Args:
        layers: 11, 13, 16 or 19.
        channels: of the images.
        planes: channels of the first four stages; the fifth has those of the fourth.
        width: multiplier of every convolution's channels (``spec.encoders.scaled``).
        norm: makes the layer between convolution and ReLU.
    """

    def __init__(self, layers: int, *, channels: int, planes: Sequence[int], width: float, norm: NormLayer) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs = channels
        for plane, count in zip((*planes, planes[-1]), _VGG_LAYERS[layers], strict=True):
            for _ in range(count):
                outputs = scaled(plane, width)
                layer = [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), norm(outputs), nn.ReLU(inplace=True)]
                modules += [module for module in layer if not isinstance(module, nn.Identity)]
                inputs = outputs
            modules.insert(-1, nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*modules)
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 32."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), 1), 1)
