"""The registry of encoders: from a spec to a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from rt_scale.models.encoder import NORM_LAYERS, Encoder
from rt_scale.models.plain import MLP, ConvNet, Flatten
from rt_scale.models.vit import ViT
from rt_scale.spec.encoders import ENCODER_FAMILIES, EncoderDescription, encoder_names, parse_encoder, scaled
from rt_scale.spec.errors import unknown_name
from rt_scale.spec.networks import EncoderSpec

if TYPE_CHECKING:
    from rt_scale.models.plain import VGG
    from rt_scale.models.resnet import PreActivationResNet, ResNet

ENCODERS: tuple[str, ...] = encoder_names()
"""Names of encoders, with one example each of the conv nets and MLPs."""

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
        spec: name, normalisation, width multiplier and attention.
        channels: 1 or 3.
        size: side of the square images in pixels.

    Raises:
        InputError: unknown name, a normalisation, width or attention that it cannot have, an image too small
            or not a whole number of patches wide, channels not 1 or 3.
    """
    description = parse_encoder(spec.name)
    description.check(norm=spec.norm, width=spec.width, attention=spec.attention)
    description.check_image(channels=channels, size=size, norm=spec.norm, width=spec.width)
    if description.channels is None:
        return _published(description, spec, channels, size)
    return _by_width(description, spec, scaled(description.channels, spec.width), channels, size)


def _published(description: EncoderDescription, spec: EncoderSpec, channels: int, size: int) -> Encoder:
    """An encoder whose name stands for the channels of its stages."""
    norm, layers, stages = NORM_LAYERS[spec.norm], description.layers, description.stages
    if description.family == "flatten":
        return Flatten(channels * size**2)
    vgg, preresnet, resnet = _from_torchvision()
    match description.family:
        case "vgg":
            return vgg(layers, channels=channels, width=spec.width, norm=norm)
        case "preresnet":
            return preresnet(layers, channels=channels, planes=stages, width=spec.width, norm=norm)
        case "resnet" | "cifar_resnet":
            return resnet(layers, channels=channels, planes=stages, width=spec.width, norm=norm)
    raise unknown_name("family of encoders", description.family, ENCODER_FAMILIES)


def _from_torchvision() -> tuple[type[VGG], type[PreActivationResNet], type[ResNet]]:
    """The encoders that need torchvision, whose import takes longer than a small conv net to train."""
    with torch.device("cpu"):  # a module's own constants must not land where the caller is building
        from rt_scale.models.plain import VGG
        from rt_scale.models.resnet import PreActivationResNet, ResNet
    return VGG, PreActivationResNet, ResNet


def _by_width(description: EncoderDescription, spec: EncoderSpec, width: int, channels: int, size: int) -> Encoder:
    """An encoder whose layers all have one width."""
    depth = description.layers
    match description.family:
        case "convnet":
            norm = NORM_LAYERS[spec.norm]
            return ConvNet(channels=channels, size=size, layer_channels=width, depth=depth, norm=norm)
        case "mlp":
            return MLP(inputs=channels * size**2, units=width, depth=depth)
        case "vit" | "vit_shared":
            return ViT(
                channels=channels,
                size=size,
                patch=description.design.patch,
                width=width,
                heads=description.heads,
                layers=depth,
                shared=description.family == "vit_shared",
                over_heads=spec.attention == "heads",
            )
    raise unknown_name("family of encoders", description.family, ENCODER_FAMILIES)


def list_encoders() -> list[EncoderRow]:
    """One row for each of ``ENCODERS``; built without memory, so at once."""
    return [_row(name) for name in ENCODERS]


def _row(name: str) -> EncoderRow:
    spec = EncoderSpec.model_validate({"name": name})
    with torch.device("meta"):
        encoder = build_encoder(spec, channels=_LISTED_CHANNELS, size=_LISTED_SIZE)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    design = parse_encoder(name).design
    return EncoderRow(name, parameters, encoder.embed_dim, design.default_norm, design.minimum_size)
