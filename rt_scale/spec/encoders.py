"""The encoders by name: families, sizes and allowed options, without importing torch."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from rt_scale.spec.data import LARGEST_SIZE, LEAST_SIZE
from rt_scale.spec.errors import InputError, unknown_name

NORMS = ("batch", "instance", "group8", "layer", "none")
"""Normalisation layers of all convolutional families (paper, figure 11)."""
ATTENTIONS = ("tokens", "heads")
"""What attention mixes: the tokens of an image, or the heads inside a token."""
VIT_HEAD = 64
"""Width of an attention head before the multiplier (Dosovitskiy et al. 2020, table 1)."""
CONVNET_LEAST_MAP = 8
"""Side below which the plain conv nets never max-pool a feature map."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Encoders of one design.

    Attributes:
        names: the members; for conv nets and MLPs one example.
        default_norm: the paper's normalisation (section 3).
        minimum_size: side in pixels below which the last feature map would be empty or only padding.
        refusal: why normalisations other than ``norms`` are not allowed.
        stages: channels of the stages before the width multiplier; empty if the name states them.
        halvings: how often a feature map is halved before the last normalisation.
        floors: whether halving rounds down, as in unpadded pooling.
        patch: side of a patch in pixels.
        one_size: why a network built for one image size takes no other; empty if it does.
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


_STAGES = (64, 128, 256, 512)


def _vit(patch: int, *names: str) -> Family:
    return Family(
        names=names,
        default_norm="layer",
        minimum_size=patch,
        norms=("layer",),
        refusal="its blocks have layer norms of their own, one vector a token, and no feature maps",
        patch=patch,
        one_size="it has learned one vector a position",
    )


ENCODER_FAMILIES: dict[str, Family] = {
    # Five unpadded 2 x 2 max-pools need 32 pixels; the last normalisation precedes the fifth pool.
    "vgg": Family(
        names=("vgg11", "vgg13", "vgg16", "vgg19"),
        default_norm="none",
        minimum_size=32,
        stages=_STAGES,
        halvings=4,
        floors=True,
    ),
    # Two halvings: with fewer than 4 pixels the last map would be only padding.
    "cifar_resnet": Family(
        names=("resnet20", "resnet56"), default_norm="batch", minimum_size=4, stages=(16, 32, 64), halvings=2
    ),
    "resnet": Family(
        names=("resnet18", "resnet34", "resnet50"), default_norm="batch", minimum_size=8, stages=_STAGES, halvings=3
    ),
    "preresnet": Family(
        names=("preresnet18", "preresnet34", "preresnet50"),
        default_norm="batch",
        minimum_size=8,
        stages=_STAGES,
        halvings=3,
    ),
    "vit": _vit(8, "vit_tiny", "vit_small", "vit_medium", "vit_base"),
    "vit_shared": _vit(16, "vit_tiny_shared", "vit_small_shared", "vit_medium_shared", "vit_base_shared"),
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
"""Token widths, which give the parameter counts of table 5."""
VIT_LAYERS = 12


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to the nearest whole number (half to even), at least 1."""
    return max(1, round(channels * width))


_PATTERN = re.compile("(convnet|mlp)_(0|[1-9][0-9]{0,5})_(0|[1-9][0-9]{0,5})")
_MOST_WIDE, _MOST_DEEP = 4096, 100


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What the name of an encoder means.

    Attributes:
        family: key of ``ENCODER_FAMILIES``.
        layers: number in the name (18 of resnet18), depth of a conv net or MLP, blocks of a ViT; 0 for flatten.
        channels: width of a conv net's or MLP's layers or a ViT's tokens, before the multiplier; else None.
    """

    name: str
    family: str
    layers: int
    channels: int | None = None

    @property
    def design(self) -> Family:
        """The properties of its family."""
        return ENCODER_FAMILIES[self.family]

    @property
    def stages(self) -> tuple[int, ...]:
        """Channels of the stages, before the width multiplier."""
        return self.design.stages if self.channels is None else (self.channels,)

    @property
    def depth(self) -> int:
        """The layers that ``probe.layers`` measures: convolutions or linear layers with their activation, the stem and
        the blocks of a ResNet, the blocks of a ViT; 0 for flatten."""
        if self.family == "vgg":
            return self.layers - 3  # the name counts the classifier's layers
        if self.family in ("resnet", "cifar_resnet", "preresnet"):
            return 1 + (self.layers - 2) // (3 if self.layers == 50 else 2)
        return self.layers

    @property
    def is_vit(self) -> bool:
        """Whether the encoder is a vision transformer."""
        return self.family in ("vit", "vit_shared")

    @property
    def heads(self) -> int:
        """Attention heads of a ViT; 0 for the others."""
        return (self.channels or 0) // VIT_HEAD if self.is_vit else 0

    def check(self, *, norm: str, width: float, attention: str = "tokens") -> None:
        """Raise InputError for a normalisation, width multiplier or attention that this encoder cannot have."""
        if norm not in NORMS:
            raise unknown_name(f"normalisation for {self.name}", norm, self.design.norms)
        if norm not in self.design.norms:
            raise InputError(
                f"Encoder '{self.name}' cannot have normalisation '{norm}': {self.design.refusal}. "
                f"Leave encoder.norm out, which means {self.design.default_norm} here."
            )
        self._check_width(norm, width)
        if attention not in ATTENTIONS:
            raise unknown_name("attention", attention, ATTENTIONS)
        if attention == "heads" and self.family != "vit_shared":
            raise InputError(
                f"Encoder '{self.name}' cannot have attention over heads: that is the published variant of the "
                f"ViTs, vit_tiny_shared to vit_base_shared. Leave encoder.attention at tokens, or take one of those."
            )

    def check_image(
        self, *, channels: int, size: int, norm: str, width: float, built: int | None = None, setting: str = "data.size"
    ) -> None:
        """Raise InputError for images that the encoder cannot take.

        Args:
            channels: 1 (grey) or 3 (colour).
            size: side of the square image in pixels.
            norm: normalisations within an image need at least two values.
            width: multiplier of every layer's number of channels, > 0.
            built: side of the images that the network is built for; None: ``size``.
            setting: the field for which the error suggests a valid size.
        """
        if channels not in (1, 3):
            raise InputError(f"Images of {channels} channels were given; encoders take 1 (grey) or 3 (colour).")
        if problem := self._image_problem(size, norm, width, built):
            why, otherwise = problem
            larger, smaller = range(max(size, LEAST_SIZE), LARGEST_SIZE + 1), range(LARGEST_SIZE, LEAST_SIZE - 1, -1)
            fitting = next(each for each in (*larger, *smaller) if not self._image_problem(each, norm, width, built))
            raise InputError(f"{why}. Set {setting}={fitting} to have them resized, or take {otherwise}.")

    def _image_problem(self, size: int, norm: str, width: float, built: int | None) -> tuple[str, str] | None:
        """Why the encoder cannot take images of size x size pixels, and what to use instead; None if it can."""
        least, patch = self.design.minimum_size, self.design.patch
        images = f"Images of {size} x {size} pixels"
        if size < least:
            why = f"are too small for encoder '{self.name}', which needs at least {least} x {least}"
            return f"{images} {why}", "an encoder for small images such as convnet_32_2"
        if size % patch:
            why = f"cannot be cut into the {patch} x {patch} patches of encoder '{self.name}'"
            return f"{images} {why}", "another encoder"
        side = self.last_map(size, built or size)
        if not side:
            why = f"are too small for encoder '{self.name}' as it is built for {built} x {built}: its max-pools leave"
            return f"{images} {why} nothing of them", "another encoder"
        if side != 1 or norm not in ("instance", "group8", "layer") or not self.stages or self.is_vit:
            return None
        if {"instance": 1, "group8": 8, "layer": scaled(self.stages[-1], width)}[norm] < 2:
            why = (
                f"Encoder '{self.name}' has a last feature map of 1 x 1 for images of {size} x {size} pixels, where "
                f"normalisation '{norm}' would be over single values: their variance is 0, and every image would "
                "give the same"
            )
            return why, "another normalisation, such as batch or none"
        return None

    def last_map(self, size: int, built: int) -> int:
        """Side of the smallest normalised map, for images of ``size`` in a network built for ``built`` pixels."""
        if self.family == "convnet":
            return size >> convnet_pools(built, self.layers)
        halvings = self.design.halvings
        return size >> halvings if self.design.floors else math.ceil(size / 2**halvings)

    def _check_width(self, norm: str, width: float) -> None:
        if not (math.isfinite(width) and width > 0):
            raise InputError(
                f"The width multiplier {width} of encoder '{self.name}' is not a positive number. "
                "Give one above 0: 1 is the published network, 0.25 a quarter of its channels."
            )
        if self.family == "flatten" and width != 1:
            raise InputError(f"Encoder 'flatten' has no channels to multiply by {width}: leave encoder.width at 1.")
        if norm == "group8":
            for channels in (scaled(stage, width) for stage in self.stages):
                if channels % 8:
                    raise InputError(
                        f"Encoder '{self.name}' at width {width} has a stage of {channels} channels, which "
                        "normalisation 'group8' cannot divide into groups of 8. Choose a width that leaves multiples "
                        "of 8, or another normalisation."
                    )
        if self.is_vit and scaled(self.channels or 0, width) % self.heads:
            raise InputError(
                f"Encoder '{self.name}' at width {width} has tokens of {scaled(self.channels or 0, width)} numbers, "
                f"which its {self.heads} attention heads cannot share equally. Choose another width, e.g. 0.5."
            )


def convnet_pools(size: int, depth: int) -> int:
    """Number of 2 x 2 max-pools in a plain conv net of ``depth`` layers for images of ``size`` pixels."""
    pools = 0
    while pools < depth - 1 and size // 2 ** (pools + 1) >= CONVNET_LEAST_MAP:
        pools += 1
    return pools


def encoder_names() -> tuple[str, ...]:
    """All fixed encoder names, with one example each of the conv nets and MLPs."""
    return tuple(name for family in ENCODER_FAMILIES.values() for name in family.names)


@functools.cache
def parse_encoder(name: str) -> EncoderDescription:
    """The encoder ``name``, which may be ``convnet_<width>_<depth>`` or ``mlp_<width>_<depth>``; raises InputError."""
    if match := _PATTERN.fullmatch(name):
        family, width, depth = match[1], int(match[2]), int(match[3])
        if not (1 <= width <= _MOST_WIDE and 1 <= depth <= _MOST_DEEP):
            raise InputError(
                f"Encoder '{name}' would have {depth} layers of width {width}. In {family}_<width>_<depth> the width "
                f"is 1 to {_MOST_WIDE} and the depth 1 to {_MOST_DEEP}, e.g. {family}_32_2."
            )
        return EncoderDescription(name=name, family=family, layers=depth, channels=width)
    for family, members in ENCODER_FAMILIES.items():
        if name in members.names:
            if family.startswith("vit"):
                width = VIT_WIDTHS[name.split("_")[1]]
                return EncoderDescription(name=name, family=family, layers=VIT_LAYERS, channels=width)
            number = re.search(r"[0-9]+$", name)
            return EncoderDescription(name=name, family=family, layers=int(number.group()) if number else 0)
    hint = (
        "Any convnet_<width>_<depth> and mlp_<width>_<depth> is known too, e.g. convnet_64_3; "
        "`rt-scale models` lists encoders."
    )
    raise unknown_name("encoder", name, encoder_names(), hint)
