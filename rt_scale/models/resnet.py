"""ResNets for small images, from torchvision's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NormLayer, scaled

Block = type[BasicBlock] | type[Bottleneck]

_LAYOUTS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
_PLANES = (64, 128, 256, 512)


class ResNet(Encoder):
    """torchvision's ResNet with a 3 x 3 stride-1 stem, no max-pool and no classifier.

    Module names are torchvision's, so weights can be exchanged with it (stem aside).

    Args:
        layers: 18, 34 or 50.
        channels: of the images.
        width: multiplier of 64, 128, 256, 512 (``norms.scaled``), the channels of the four stages
            inside a block; ResNet-50's stages give out 4 times as many.
        norm: makes the layer after each convolution; the convolutions have no biases of their own.
    """

    def __init__(self, layers: int, *, channels: int, width: float, norm: NormLayer) -> None:
        super().__init__()
        block, counts = _LAYOUTS[layers]
        planes = [scaled(plane, width) for plane in _PLANES]
        self.conv1 = nn.Conv2d(channels, planes[0], kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = norm(planes[0])
        self.relu = nn.ReLU(inplace=True)
        inputs = planes[0]
        for stage, (plane, count) in enumerate(zip(planes, counts, strict=True)):
            stride = 1 if stage == 0 else 2
            self.add_module(f"layer{stage + 1}", _stage(block, inputs, plane, count, stride, norm))
            inputs = plane * block.expansion
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 8: means over the last map."""
        maps = self.relu(self.bn1(self.conv1(images)))
        for stage in range(1, len(_PLANES) + 1):
            maps = self.get_submodule(f"layer{stage}")(maps)
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)


def _stage(block: Block, inputs: int, planes: int, count: int, stride: int, norm: NormLayer) -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, norm(outputs))
    first = block(inputs, planes, stride, shortcut, norm_layer=norm)
    return nn.Sequential(first, *(block(outputs, planes, norm_layer=norm) for _ in range(1, count)))
