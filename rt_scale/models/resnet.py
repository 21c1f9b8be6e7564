"""ResNets for small images, from torchvision's blocks, and pre-activation ResNets (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from rt_scale.models.encoder import Encoder, NormLayer
from rt_scale.spec.encoders import scaled

Block = type[BasicBlock] | type[Bottleneck]

_LAYOUTS: dict[int, tuple[Block, tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    # three stages: He et al. 2015, section 4.2
    20: (BasicBlock, (3, 3, 3)),
    56: (BasicBlock, (9, 9, 9)),
}


class ResNet(Encoder):
    """torchvision's ResNet with a 3 x 3 stride-1 stem, no max-pool and no classifier.

    Module names are torchvision's, so all weights but the stem's can be exchanged with it. ResNet-20 and -56
    are the CIFAR variants, with 1 x 1 convolutions as shortcuts.

    Without normalisation the variance of activations about doubles with every block (ResNet-56's embeddings have a root
    mean square of 1,500). Residual branches are not scaled down, as figure 11's 'Identity' has no such factor; a random
    teacher's batch norms (mean 0, variance 1) do not prevent it either, and the l2-bottleneck divides it out.

    Args:
        layers: 18, 34, 50, 20 or 56.
        channels: of the images.
        planes: channels inside the blocks of each stage; ResNet-50's stages output 4 times as many.
        width: multiplier of ``planes`` (``spec.encoders.scaled``).
        norm: makes the layer after each convolution (without bias).
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

    def layer_modules(self) -> list[nn.Module]:
        """The stem's activation and the blocks."""
        stages = [self.get_submodule(f"layer{stage + 1}") for stage in range(self.stages)]
        return [self.relu, *(block for stage in stages for block in stage.children())]

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 8 (4 for ResNet-20 and -56)."""
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


class PreActivationBlock(nn.Module):
    """Two or three layers of normalisation, ReLU and convolution, plus an identity shortcut.

    If the shape changes, the shortcut is a 1 x 1 convolution of the first normalised and rectified maps.

    Args:
        block: two 3 x 3 convolutions (basic), or 1 x 1, 3 x 3 and 1 x 1 to 4 times ``planes`` (bottleneck).
        inputs: input channels.
        planes: channels inside the block.
        stride: of the first 3 x 3 convolution.
        norm: makes the layer before each ReLU.
    """

    def __init__(self, block: Block, inputs: int, planes: int, stride: int, norm: NormLayer) -> None:
        super().__init__()
        outputs = planes * block.expansion
        shapes = [(inputs, planes, 3, stride), (planes, planes, 3, 1)]
        if block is Bottleneck:
            shapes = [(inputs, planes, 1, 1), (planes, planes, 3, stride), (planes, outputs, 1, 1)]
        self.norms = nn.ModuleList(norm(shape[0]) for shape in shapes)
        self.convolutions = nn.ModuleList(_convolution(*shape) for shape in shapes)
        changes = stride != 1 or inputs != outputs
        self.shortcut = _convolution(inputs, outputs, 1, stride) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, outputs, H / stride, W / stride] of maps [B, inputs, H, W]."""
        # Not in place: without normalisation the first ReLU would change the shortcut's maps.
        activated = torch.relu(self.norms[0](maps))
        residual: Tensor = self.convolutions[0](activated)
        for norm, convolution in zip(self.norms[1:], self.convolutions[1:], strict=True):
            residual = convolution(torch.relu(norm(residual)))
        return residual + (maps if self.shortcut is None else self.shortcut(activated))


class PreActivationResNet(Encoder):
    """3 x 3 stride-1 stem, four stages of pre-activation blocks, normalisation, ReLU and mean over the last map.

    All stages but the first halve the map. Arguments as of ``ResNet``, but ``layers`` is 18, 34 or 50.
    """

    def __init__(self, layers: int, *, channels: int, planes: Sequence[int], width: float, norm: NormLayer) -> None:
        super().__init__()
        block, counts = _LAYOUTS[layers]
        inputs = scaled(planes[0], width)
        self.stem = _convolution(channels, inputs, 3, 1)
        blocks: list[nn.Module] = []
        for stage, (plane, count) in enumerate(zip(planes, counts, strict=True)):
            inside = scaled(plane, width)
            for number in range(count):
                blocks.append(PreActivationBlock(block, inputs, inside, 2 if stage and not number else 1, norm))
                inputs = inside * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(inputs)
        self.embed_dim = inputs

    def layer_modules(self) -> list[nn.Module]:
        """The stem and the blocks, whose outputs are not yet normalised."""
        return [self.stem, *self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, embed_dim] of images [B, C, H, W], H = W >= 8."""
        maps = torch.relu(self.norm(self.blocks(self.stem(images))))
        return torch.flatten(nn.functional.adaptive_avg_pool2d(maps, 1), 1)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
