"""The encoders by name: what can be asked for, known without importing torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rt_scale.spec.errors import InputError, unknown_name

NORMS = ("batch", "none")
"""Normalisation layers that every family can be built with."""

CONVNET_PATTERN = "convnet_<width>_<depth>"
_CONVNET = re.compile(r"convnet_(0|[1-9][0-9]{0,5})_(0|[1-9][0-9]{0,5})")
_CONVNET_LIMITS = (4096, 100)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Encoders of one design.

    Attributes:
        names: its members; for conv nets an example of the pattern.
        default_norm: normalisation that the paper uses with it (section 3).
        minimum_size: side in pixels below which its last feature map would vanish or be made of
            padding alone.
    """

    names: tuple[str, ...]
    default_norm: str
    minimum_size: int


ENCODER_FAMILIES: dict[str, Family] = {
    # Three halvings: 8 pixels are the least that leave one real position in the last map.
    "resnet": Family(names=("resnet18", "resnet34", "resnet50"), default_norm="batch", minimum_size=8),
    # Five unpadded 2 x 2 max-pools: at 16 pixels nothing would be left.
    "vgg": Family(names=("vgg11", "vgg13", "vgg16", "vgg19"), default_norm="none", minimum_size=32),
    # The final map is averaged to 2 x 2.
    "convnet": Family(names=("convnet_32_2",), default_norm="none", minimum_size=2),
}


@dataclass(frozen=True, kw_only=True)
class EncoderDescription:
    """What a name stands for.

    Attributes:
        name: as given.
        family: key of ``ENCODER_FAMILIES``.
        default_norm: normalisation meant where none is named.
        minimum_size: least side of an image in pixels.
        norms: normalisations it can be built with.
        layers: number in the name (18 of resnet18), or the depth of a conv net.
        channels: channels of a conv net's layers before the width multiplier; None for the others.
    """

    name: str
    family: str
    default_norm: str
    minimum_size: int
    norms: tuple[str, ...]
    layers: int
    channels: int | None = None

    def check(self, *, norm: str, width: float) -> None:
        """Refuse what cannot be built.

        Args:
            norm: normalisation by name.
            width: multiplier of every layer's number of channels, > 0.

        Raises:
            InputError: unknown normalisation, or a width that is not a positive number.
        """
        if norm not in self.norms:
            raise unknown_name(f"normalisation for {self.name}", norm, self.norms)
        if not (math.isfinite(width) and width > 0):
            raise InputError(
                f"The width multiplier {width} of encoder '{self.name}' is not a positive number. "
                "Give one above 0: 1 is the published network, 0.25 a quarter of its channels."
            )

    def check_image(self, *, channels: int, size: int) -> None:
        """Refuse images that the encoder cannot take.

        Args:
            channels: 1 (grey) or 3 (colour).
            size: side of the square image in pixels.

        Raises:
            InputError: too small an image, or another number of channels.
        """
        if channels not in (1, 3):
            raise InputError(f"Images of {channels} channels were given; encoders take 1 (grey) or 3 (colour).")
        if size < self.minimum_size:
            raise InputError(
                f"Images of {size} x {size} pixels are too small for encoder '{self.name}', which needs at "
                f"least {self.minimum_size} x {self.minimum_size}. Set data.size={self.minimum_size} to have "
                f"them enlarged, or take an encoder for small images such as convnet_32_2."
            )


def encoder_names() -> tuple[str, ...]:
    """Every encoder that has a name of its own, with one example of the conv nets."""
    return tuple(name for family in ENCODER_FAMILIES.values() for name in family.names)


def parse_encoder(name: str) -> EncoderDescription:
    """The encoder that ``name`` stands for.

    Args:
        name: one of ``encoder_names()``, or ``convnet_<width>_<depth>``: that many channels a layer,
            that many layers.

    Raises:
        InputError: unknown name (the nearest is named), or a conv net of impossible width or depth.
    """
    convnet = _CONVNET.fullmatch(name)
    if convnet:
        width, depth = (int(group) for group in convnet.groups())
        _check_convnet(name, width, depth)
        return _describe(name, "convnet", layers=depth, channels=width)
    for family, members in ENCODER_FAMILIES.items():
        if name in members.names:
            return _describe(name, family, layers=int(name.removeprefix(family)))
    hint = f"Any {CONVNET_PATTERN} is known too, e.g. convnet_64_3; `rt-scale models` lists encoders."
    raise unknown_name("encoder", name, encoder_names(), hint)


def minimum_size(name: str) -> int:
    """The least side in pixels of an image for encoder ``name``; InputError for an unknown one."""
    return parse_encoder(name).minimum_size


def _describe(name: str, family: str, *, layers: int, channels: int | None = None) -> EncoderDescription:
    members = ENCODER_FAMILIES[family]
    return EncoderDescription(
        name=name,
        family=family,
        default_norm=members.default_norm,
        minimum_size=members.minimum_size,
        norms=NORMS,
        layers=layers,
        channels=channels,
    )


def _check_convnet(name: str, width: int, depth: int) -> None:
    most_wide, most_deep = _CONVNET_LIMITS
    if not (1 <= width <= most_wide and 1 <= depth <= most_deep):
        raise InputError(
            f"Encoder '{name}' would have {depth} layers of {width} channels. In {CONVNET_PATTERN} the width "
            f"is 1 to {most_wide} and the depth 1 to {most_deep}, e.g. convnet_32_2."
        )
