"""Encoders without shortcuts: pixels themselves, MLPs, small conv nets, and VGG for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs

from rt_scale.models.encoder import Encoder, NormLayer
from rt_scale.spec.encoders import convnet_pools, scaled


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


_CONFIGURATIONS = {11: "A", 13: "B", 16: "D", 19: "E"}


class VGG(Encoder):
    """torchvision's VGG without its classifier; the last map is averaged to 1 x 1.

    At 32 x 32 pixels the last map is 1 x 1 already. Without normalisation the modules of
    ``features`` that have weights carry torchvision's numbers, so weights can be exchanged with it. Where a map is
    pooled its ReLU comes after: the maximum of rectified values is the rectified maximum, bit for bit, and so is the
    gradient; the ReLU has a quarter of the values to pass over.

    Args:
        layers: 11, 13, 16 or 19.
        channels: of the images.
        width: multiplier of every convolution's channels (``families.scaled``).
        norm: makes the layer between convolution and ReLU.
    """

    def __init__(self, layers: int, *, channels: int, width: float, norm: NormLayer) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        inputs = channels
        for entry in cfgs[_CONFIGURATIONS[layers]]:
            if entry == "M":
                modules.insert(-1, nn.MaxPool2d(kernel_size=2, stride=2))  # the ReLU then sees a quarter as much
                continue
            outputs = scaled(int(entry), width)
            convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
            normalisation = norm(outputs)
            modules.append(convolution)
            if not isinstance(normalisation, nn.Identity):
                modules.append(normalisation)
            modules.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.features = nn.Sequential(*modules)
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 32."""
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(images), 1), 1)
