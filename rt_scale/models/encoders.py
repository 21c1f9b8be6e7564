"""The registry of encoders: from a spec to a network."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from rt_scale.models.encoder import NORM_LAYERS, Encoder
from rt_scale.models.plain import MLP, VGG, ConvNet, Flatten
from rt_scale.models.vit import ViT
from rt_scale.spec.encoders import ENCODER_FAMILIES, encoder_names, parse_encoder, scaled
from rt_scale.spec.errors import unknown_name
from rt_scale.spec.networks import EncoderSpec

ENCODERS: tuple[str, ...] = encoder_names()
"""Names of encoders, with one example each of the conv nets and MLPs."""


def build_encoder(spec: EncoderSpec, *, channels: int, size: int) -> Encoder:
    """The encoder of ``spec`` on the default device, for images [B, channels, size, size]; raises InputError.

    Its weights come from torch's global generator; ``networks.build_network`` draws them from its own.
    """
    encoder: Encoder = encoder_design(spec, channels=channels, size=size)()
    return encoder


def encoder_design(spec: EncoderSpec, *, channels: int, size: int) -> partial[Any]:
    """The class of ``build_encoder``'s module with its arguments, all by name; raises InputError."""
    named = parse_encoder(spec.name)
    named.check(norm=spec.norm, width=spec.width, attention=spec.attention)
    named.check_image(channels=channels, size=size, norm=spec.norm, width=spec.width)
    norm, layers, planes = NORM_LAYERS[spec.norm], named.layers, named.stages
    match named.family:
        case "flatten":
            return partial(Flatten, inputs=channels * size**2)
        case "mlp":
            return partial(MLP, inputs=channels * size**2, units=scaled(planes[0], spec.width), depth=layers)
        case "convnet":
            width = scaled(planes[0], spec.width)
            return partial(ConvNet, channels=channels, size=size, layer_channels=width, depth=layers, norm=norm)
        case "vgg":
            return partial(VGG, layers=layers, channels=channels, planes=planes, width=spec.width, norm=norm)
        case "resnet" | "cifar_resnet" | "preresnet":
            # torchvision's import is slow, so it is late, and must not run under the meta device.
            with torch.device("cpu"):
                from rt_scale.models.resnet import PreActivationResNet, ResNet
            design = PreActivationResNet if named.family == "preresnet" else ResNet
            return partial(design, layers=layers, channels=channels, planes=planes, width=spec.width, norm=norm)
        case "vit" | "vit_shared":
            return partial(
                ViT,
                channels=channels,
                size=size,
                patch=named.design.patch,
                width=scaled(planes[0], spec.width),
                heads=named.heads,
                layers=layers,
                shared=named.family == "vit_shared",
                over_heads=spec.attention == "heads",
            )
    raise unknown_name("family of encoders", named.family, ENCODER_FAMILIES)


class EncoderRow(NamedTuple):
    """An encoder at 32 x 32 pixels, 3 channels, width 1 and its default ``norm``; ``parameters`` as in table 5.

    ``minimum_size`` is the least side of an image in pixels.
    """

    name: str
    parameters: int
    embed_dim: int
    norm: str
    minimum_size: int


def list_encoders() -> list[EncoderRow]:
    """One row for each of ``ENCODERS``; built on the meta device, so fast."""
    return [_row(name) for name in ENCODERS]


def _row(name: str) -> EncoderRow:
    spec = EncoderSpec.model_validate({"name": name})
    with torch.device("meta"):
        encoder = build_encoder(spec, channels=3, size=32)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    design = parse_encoder(name).design
    return EncoderRow(name, parameters, encoder.embed_dim, design.default_norm, design.minimum_size)
