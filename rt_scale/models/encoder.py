"""The base class of encoders, and normalisation layers by name, for feature maps [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn


class Encoder(nn.Module):
    """A network from normalised images [B, C, H, W] to embeddings [B, embed_dim]."""

    embed_dim: int

    def layer_modules(self) -> list[nn.Module]:
        """The modules whose outputs, in the order of their calls, are the layers that ``probe.layers`` measures.

        ``EncoderDescription.depth`` is the number of these calls in a pass.
        """
        return [module for module in self.modules() if isinstance(module, nn.ReLU)]


NormLayer = Callable[[int], nn.Module]
"""Makes the normalisation for a number of channels."""


def _groups_of_8(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)


# All but 'none' have a learned scale and shift per channel, so their parameter counts are equal.
# 'layer' is over all channels and positions of an image, as in figure 11 (Wu & He 2018, one group), not over channels
# only as in ConvNeXt. 'group8' is over groups of 8 channels, as "Group Norm8" in the authors' code, not over 8 groups.
# Only 'batch' has running statistics; with the others an output depends on its image only.
NORM_LAYERS: dict[str, NormLayer] = {
    "batch": nn.BatchNorm2d,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "group8": _groups_of_8,
    "layer": partial(nn.GroupNorm, 1),
    "none": nn.Identity,
}
