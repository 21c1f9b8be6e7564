"""ResNets for small images, from torchvision's blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NormLayer
from rt_scale.spec.families import scaled

Block = type[BasicBlock] | type[Bottleneck]

_LAYOUTS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    # Three stages: He et al. 2015, section 4.2.
    20: (BasicBlock, (3, 3, 3)),
    56: (BasicBlock, (9, 9, 9)),
}


class ResNet(Encoder):
    """torchvision's ResNet with a 3 x 3 stride-1 stem, no max-pool and no classifier.

    Module names are torchvision's, so weights can be exchanged with it (stem aside). ResNet-20 and -56
    are the CIFAR variants, with 1 x 1 convolutions as shortcuts.

    Without normalisation the variance of activations about doubles with every block. No residual branch is
    scaled down against that: the teacher's batch norms, in evaluation mode with mean 0 and variance 1, let the
    same happen, and figure 11's 'Identity' has no such factor. With ReLUs and zero biases it is a factor of the
    whole embedding (root mean square 13 in ResNet-34, 1,500 in ResNet-56), which the l2-bottleneck divides out.

    Args:
        layers: 18, 34, 50, 20 or 56.
        channels: of the images.
        planes: channels inside the blocks of each stage; ResNet-50's stages give out 4 times as many.
        width: multiplier of ``planes`` (``families.scaled``).
        norm: makes the layer after each convolution; the convolutions have no biases of their own.
    """

    def __init__(self, layers: int, *, channels: int, planes: Sequence[int], width: float, norm: NormLayer) -> None:
        super().__init__()
        block, counts = _LAYOUTS[layers]
        planes = [scaled(plane, width) for plane in planes]
        self.conv1 = nn.Conv2d(channels, planes[0], kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = norm(planes[0])
        self.relu = nn.ReLU(inplace=True)
        inputs = planes[0]
        for stage, (plane, count) in enumerate(zip(planes, counts, strict=True)):
            stride = 1 if stage == 0 else 2
            self.add_module(f"layer{stage + 1}", _stage(block, inputs, plane, count, stride, norm))
            inputs = plane * block.expansion
        self.stages = len(planes)
        self.embed_dim = inputs

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], means over the last map.

        H = W >= 8; 4 for ResNet-20 and -56.
        """
        maps = self.relu(self.bn1(self.conv1(images)))
        for stage in range(1, self.stages + 1):
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
