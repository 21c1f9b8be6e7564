"""What every encoder is, and its normalisation layers by name, for feature maps [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn


class Encoder(nn.Module):
    """A network from normalised images [B, C, H, W] to embeddings [B, embed_dim].

    Attributes:
        embed_dim: width of an embedding.
    """

    embed_dim: int


NormLayer = Callable[[int], nn.Module]
"""Makes the normalisation of a map of so many channels."""


def _nothing(channels: int) -> nn.Module:
    return nn.Identity()


def _groups_of_8(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)


# All have a learned scale and shift a channel, so that every choice has as many parameters (none apart).
# 'instance' is over the positions of one channel. 'layer' is over all channels and positions of an image,
# what figure 11 calls layer norm: one group of Wu & He (2018), and not ConvNeXt's norm over channels alone.
# 'group8' is over groups of 8 channels, which the authors' code means by "Group Norm8", not over 8 groups.
# None of them keeps running statistics: an image's output depends on that image, in training and evaluation.
NORM_LAYERS: dict[str, NormLayer] = {
    "batch": nn.BatchNorm2d,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "group8": _groups_of_8,
    "layer": partial(nn.GroupNorm, 1),
    "none": _nothing,
}
