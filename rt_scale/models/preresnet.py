"""Pre-activation ResNets (He et al. 2016, "Identity Mappings in Deep Residual Networks")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NormLayer
from rt_scale.spec.families import scaled

_COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECKS = (50,)
_EXPANSION = 4


class PreActivationBlock(nn.Module):
    """Normalisation, ReLU, convolution, two or three times; what comes in is added, untouched.

    Where shape changes, the shortcut is a 1 x 1 convolution of the first normalised and rectified maps.

    Args:
        inputs: channels that come in.
        planes: channels inside the block.
        stride: of the first 3 x 3 convolution.
        bottleneck: 1 x 1, 3 x 3 and 1 x 1 convolutions, the last to 4 times ``planes``; else two 3 x 3.
        norm: makes the layer before each ReLU; the convolutions have no biases.
    """

    def __init__(self, inputs: int, planes: int, stride: int, *, bottleneck: bool, norm: NormLayer) -> None:
        super().__init__()
        outputs = planes * _EXPANSION if bottleneck else planes
        shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        if bottleneck:
            shapes = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        self.norms = nn.ModuleList(norm(shape[0]) for shape in shapes)
        self.convolutions = nn.ModuleList(_convolution(*shape) for shape in shapes)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _convolution(inputs, outputs, 1, stride) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, outputs, H / stride, W / stride] of maps [B, inputs, H, W]."""
        # Not in place: without normalisation the first ReLU would change what is added below.
        activated = torch.relu(self.norms[0](maps))
        residual: Tensor = self.convolutions[0](activated)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            residual = convolution(torch.relu(norm(residual)))
        return residual + (maps if self.shortcut is None else self.shortcut(activated))


class PreActivationResNet(Encoder):
    """3 x 3 stride-1 stem, four stages of pre-activation blocks, then normalisation, ReLU and the mean.

    Args:
        layers: 18, 34 or 50.
        channels: of the images.
        planes: channels inside the blocks of each stage; all but the first stage halve the map.
        width: multiplier of ``planes`` (``families.scaled``).
        norm: makes the layer before each ReLU.
    """

    def __init__(self, layers: int, *, channels: int, planes: Sequence[int], width: float, norm: NormLayer) -> None:
        super().__init__()
        bottleneck = layers in _BOTTLENECKS
        inputs = scaled(planes[0], width)
        self.stem = _convolution(channels, inputs, 3, 1)
        blocks: list[nn.Module] = []
        for stage, (plane, count) in enumerate(zip(planes, _COUNTS[layers], strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                inside = scaled(plane, width)
                blocks.append(PreActivationBlock(inputs, inside, stride, bottleneck=bottleneck, norm=norm))
                inputs = inside * _EXPANSION if bottleneck else inside
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(inputs)
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 8: means over the last map."""
        maps = torch.relu(self.norm(self.blocks(self.stem(images))))
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
