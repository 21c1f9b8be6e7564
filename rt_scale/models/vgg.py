"""VGG ``features`` for small images, in torchvision's configurations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs

from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NormLayer
from rt_scale.spec.families import scaled

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
