"""The designs of encoders: names, sizes and what each can be built with, known without torch."""

from __future__ import annotations

from dataclasses import dataclass

NORMS = ("batch", "instance", "group8", "layer", "none")
"""Normalisation layers that every convolutional family can be built with (paper, figure 11)."""

ATTENTIONS = ("tokens", "heads")
"""What attention mixes: the tokens of an image, or the heads inside a token."""

VIT_HEAD = 64
"""Width of an attention head before the multiplier (Dosovitskiy et al. 2020, table 1)."""

_VIT_SIZE = "it has learned one vector a position"
_VIT_NORM = "its blocks have layer norms of their own, one vector a token, and no feature maps"


CONVNET_LEAST_MAP = 8
"""Side below which the plain conv nets never max-pool a feature map."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Encoders of one design.

    Attributes:
        names: its members; for conv nets and MLPs an example of the pattern.
        default_norm: normalisation that the paper uses with it (section 3).
        minimum_size: side in pixels below which its last feature map would vanish or be made of
            padding alone.
        norms: normalisations it can be built with.
        refusal: why it cannot have the others.
        stages: channels of its stages before the width multiplier; empty where the name says them.
        halvings: how often a feature map is halved before the last normalisation.
        floors: whether halving rounds down, as unpadded pooling does, not up.
        patch: side in pixels of the patches that images are cut into.
        one_size: why a network built for one size of image takes no other; empty where it does.
    """

    names: tuple[str, ...]
    default_norm: str
    minimum_size: int
    norms: tuple[str, ...] = NORMS
    refusal: str = ""
    stages: tuple[int, ...] = ()
    halvings: int = 0
    floors: bool = False
    patch: int = 1
    one_size: str = ""


ENCODER_FAMILIES: dict[str, Family] = {
    "vgg": Family(
        names=("vgg11", "vgg13", "vgg16", "vgg19"),
        default_norm="none",
        # Five unpadded 2 x 2 max-pools: at 16 pixels nothing would be left. The fifth comes after the
        # last normalisation, whose map is therefore 2 x 2 at least.
        minimum_size=32,
        stages=(64, 128, 256, 512),
        halvings=4,
        floors=True,
    ),
    # Two halvings: 4 pixels are the least that leave one real position in the last map.
    "cifar_resnet": Family(
        names=("resnet20", "resnet56"), default_norm="batch", minimum_size=4, stages=(16, 32, 64), halvings=2
    ),
    "resnet": Family(
        names=("resnet18", "resnet34", "resnet50"),
        default_norm="batch",
        minimum_size=8,
        stages=(64, 128, 256, 512),
        halvings=3,
    ),
    "preresnet": Family(
        names=("preresnet18", "preresnet34", "preresnet50"),
        default_norm="batch",
        minimum_size=8,
        stages=(64, 128, 256, 512),
        halvings=3,
    ),
    "vit": Family(
        names=("vit_tiny", "vit_small", "vit_medium", "vit_base"),
        default_norm="layer",
        minimum_size=8,
        norms=("layer",),
        refusal=_VIT_NORM,
        patch=8,
        one_size=_VIT_SIZE,
    ),
    "vit_shared": Family(
        names=("vit_tiny_shared", "vit_small_shared", "vit_medium_shared", "vit_base_shared"),
        default_norm="layer",
        minimum_size=16,
        norms=("layer",),
        refusal=_VIT_NORM,
        patch=16,
        one_size=_VIT_SIZE,
    ),
    # The final map is averaged to 2 x 2.
    "convnet": Family(names=("convnet_32_2",), default_norm="none", minimum_size=2),
    "mlp": Family(
        names=("mlp_512_2",),
        default_norm="none",
        minimum_size=1,
        norms=("none",),
        refusal="it has no feature maps to normalise",
        one_size="it has a weight a pixel",
    ),
    "flatten": Family(
        names=("flatten",),
        default_norm="none",
        minimum_size=1,
        norms=("none",),
        refusal="it has no layers at all",
        one_size="its embedding has a number a pixel",
    ),
}

VIT_WIDTHS = {"tiny": 192, "small": 384, "medium": 512, "base": 768}
"""Width of a token by size: those from which table 5's counts follow."""

VIT_LAYERS = 12


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to the nearest whole number (half to even), at least 1."""
    return max(1, round(channels * width))
