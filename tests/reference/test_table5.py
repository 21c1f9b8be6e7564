"""Encoders against the paper's table 5 and against torchvision's own networks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision
from torch import nn

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.networks import initialise
from rt_scale.spec.networks import EncoderSpec

TABLE_5 = {
    "vgg11": 9220480,
    "vgg13": 9404992,
    "vgg16": 14714688,
    "vgg19": 20024384,
    "resnet20": 271824,
    "resnet56": 855120,
    "resnet18": 11168832,
    "resnet34": 21276992,
    "resnet50": 23500352,
    "vit_tiny_shared": 594048,
    "vit_small_shared": 2072832,
    "vit_medium_shared": 3550208,
    "vit_base_shared": 7684608,
    # The row 'none'.
    "flatten": 0,
}


def build(
    name: str, *, width: float = 1.0, channels: int = 3, norm: str | None = None, attention: str = "tokens"
) -> Encoder:
    spec = EncoderSpec.model_validate({"name": name, "width": width, "norm": norm, "attention": attention})
    with torch.device("meta"):
        return build_encoder(spec, channels=channels, size=32)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "parameters"), TABLE_5.items())
def test_parameter_counts_are_table_5s(name: str, parameters: int) -> None:
    assert count(build(name)) == parameters


@pytest.mark.parametrize("name", [name for name in TABLE_5 if name.endswith("_shared")])
def test_what_attention_mixes_does_not_change_the_count(name: str) -> None:
    assert count(build(name, attention="heads")) == TABLE_5[name]


@pytest.mark.parametrize(("size", "width"), [("tiny", 192), ("small", 384), ("medium", 512), ("base", 768)])
def test_vits_closed_form(size: str, width: int) -> None:
    """Of the standard family: twelve blocks of their own, 16 patches of 8 x 8."""
    norm = 2 * width
    attention = 4 * (width**2 + width)
    mlp = 2 * 4 * width**2 + 4 * width + width
    outside = 3 * 8**2 * width + width + width + 17 * width + norm
    assert count(build(f"vit_{size}")) == outside + 12 * (2 * norm + attention + mlp)


@pytest.mark.parametrize(("width", "depth", "channels"), [(512, 2, 3), (7, 4, 1)])
def test_mlps_closed_form(width: int, depth: int, channels: int) -> None:
    expected = channels * 32**2 * width + (depth - 1) * width**2 + depth * width
    assert count(build(f"mlp_{width}_{depth}", channels=channels)) == expected


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_are_torchvisions_with_another_stem(name: str) -> None:
    ours = initialise(build(name).to_empty(device="cpu"), torch.Generator().manual_seed(0))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
        theirs.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    theirs.maxpool = theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(("name", "letter"), [("vgg11", "A"), ("vgg13", "B"), ("vgg16", "D"), ("vgg19", "E")])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_vggs_are_torchvisions_features(name: str, letter: str, norm: str) -> None:
    ours = initialise(build(name, norm=norm).to_empty(device="cpu"), torch.Generator().manual_seed(0))
    with torch.device("meta"):
        features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[letter], batch_norm=norm == "batch")
    theirs = nn.ModuleDict({"features": features})
    theirs.load_state_dict(ours.state_dict(), assign=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs["features"].eval()(images).flatten(1))


def test_vggs_average_larger_maps() -> None:
    ours = initialise(build("vgg11", width=0.125).to_empty(device="cpu"), torch.Generator().manual_seed(0))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(images), ours.get_submodule("features")(images).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("width", "depth", "channels", "norm"), [(32, 2, 1, "none"), (16, 1, 3, "none"), (8, 5, 3, "batch")]
)
def test_conv_nets_closed_form(width: int, depth: int, channels: int, norm: str) -> None:
    convolutions = 9 * width * (channels + (depth - 1) * width) + depth * width
    expected = convolutions + (2 * depth * width if norm == "batch" else 0)
    assert count(build(f"convnet_{width}_{depth}", channels=channels, norm=norm)) == expected


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_grey_images_take_two_kernels_less_in_the_first_layer(name: str) -> None:
    assert count(build(name)) - count(build(name, channels=1)) == 2 * 9 * 64


def test_a_quarter_of_vgg11_in_closed_form() -> None:
    widths = [3, 16, 32, 64, 64, 128, 128, 128, 128]
    expected = sum(9 * i * o + o for i, o in itertools.pairwise(widths))
    assert count(build("vgg11", width=0.25)) == expected
