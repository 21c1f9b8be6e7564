"""Small plain conv nets, for small images and quick runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NormLayer
from rt_scale.spec.encoders import convnet_pools

_POOLED = 2


class ConvNet(Encoder):
    """``depth`` times 3 x 3 convolution, normalisation, ReLU; then averaged to 2 x 2 and flattened.

    Between layers, maps are max-pooled 2 x 2 as long as 8 x 8 or more remains: never at 8 x 8
    pixels, once after the first and once after the second layer at 32 x 32. The ReLU comes after the pool, as in
    ``VGG``, which changes no bit.

    Args:
        channels: of the images.
        size: side of the images in pixels, which decides where maps are pooled.
        layer_channels: channels of every layer.
        depth: number of layers.
        norm: makes the layer between convolution and ReLU; the convolutions have biases.
    """

    def __init__(self, *, channels: int, size: int, layer_channels: int, depth: int, norm: NormLayer) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs, pools = channels, convnet_pools(size, depth)
        for layer in range(depth):
            if 0 < layer <= pools:
                modules.insert(-1, nn.MaxPool2d(kernel_size=2, stride=2))  # the ReLU then sees a quarter as much
            modules.append(nn.Conv2d(inputs, layer_channels, kernel_size=3, padding=1))
            modules.append(norm(layer_channels))
            modules.append(nn.ReLU(inplace=True))
            inputs = layer_channels
        self.features = nn.Sequential(*modules)
        self.embed_dim = layer_channels * _POOLED**2

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 2."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), _POOLED), 1)
