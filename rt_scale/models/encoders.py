"""The registry of encoders: from a spec to a network."""

from __future__ import annotations

from typing import NamedTuple

import torch

from rt_scale.models.convnet import ConvNet
from rt_scale.models.encoder import Encoder
from rt_scale.models.norms import NORM_LAYERS, scaled
from rt_scale.models.resnet import ResNet
from rt_scale.models.vgg import VGG
from rt_scale.spec.encoders import encoder_names, parse_encoder
from rt_scale.spec.run import EncoderSpec

ENCODERS: tuple[str, ...] = encoder_names()
"""Names of encoders, with one example of the conv nets."""

_LISTED_SIZE = 32
_LISTED_CHANNELS = 3


class EncoderRow(NamedTuple):
    """An encoder as it is listed, at 32 x 32 pixels, 3 channels, width 1 and its default normalisation.

    Attributes:
        name: to be given as ``encoder.name``.
        parameters: number of trainable parameters (table 5 of the paper).
        embed_dim: width of the embedding.
        norm: the default normalisation.
        minimum_size: least side of an image in pixels.
    """

    name: str
    parameters: int
    embed_dim: int
    norm: str
    minimum_size: int


def build_encoder(spec: EncoderSpec, *, channels: int, size: int) -> Encoder:
    """The encoder of ``spec`` on the current default device, its parameters not yet drawn.

    ``pair.build_network`` builds on the meta device and draws everything from one generator;
    called directly, torch's layers initialise themselves from the global generator.

    Args:
        spec: name, normalisation and width multiplier.
        channels: 1 or 3.
        size: side of the square images in pixels.

    Raises:
        InputError: unknown name or normalisation, image too small, channels not 1 or 3.
    """
    description = parse_encoder(spec.name)
    description.check(norm=spec.norm, width=spec.width)
    description.check_image(channels=channels, size=size)
    norm = NORM_LAYERS[spec.norm]
    if description.family == "resnet":
        return ResNet(description.layers, channels=channels, width=spec.width, norm=norm)
    if description.family == "vgg":
        return VGG(description.layers, channels=channels, width=spec.width, norm=norm)
    assert description.channels is not None
    return ConvNet(
        channels=channels,
        size=size,
        layer_channels=scaled(description.channels, spec.width),
        depth=description.layers,
        norm=norm,
    )


def list_encoders() -> list[EncoderRow]:
    """One row for each of ``ENCODERS``; built without memory, so at once."""
    return [_row(name) for name in ENCODERS]


def _row(name: str) -> EncoderRow:
    description = parse_encoder(name)
    spec = EncoderSpec.model_validate({"name": name})
    with torch.device("meta"):
        encoder = build_encoder(spec, channels=_LISTED_CHANNELS, size=_LISTED_SIZE)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return EncoderRow(name, parameters, encoder.embed_dim, description.default_norm, description.minimum_size)
