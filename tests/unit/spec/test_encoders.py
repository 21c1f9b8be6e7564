from __future__ import annotations

import subprocess
import sys

import pytest

from rt_scale.spec.encoders import (
    ENCODER_FAMILIES,
    NORMS,
    encoder_names,
    minimum_size,
    parse_encoder,
)
from rt_scale.spec.errors import InputError


@pytest.mark.parametrize(
    ("name", "family", "layers", "channels", "norm", "size"),
    [
        ("resnet18", "resnet", 18, None, "batch", 8),
        ("resnet50", "resnet", 50, None, "batch", 8),
        ("vgg11", "vgg", 11, None, "none", 32),
        ("convnet_32_2", "convnet", 2, 32, "none", 2),
        ("convnet_7_11", "convnet", 11, 7, "none", 2),
    ],
)
def test_a_name_is_described(name: str, family: str, layers: int, channels: int | None, norm: str, size: int) -> None:
    description = parse_encoder(name)
    assert (description.name, description.family, description.layers) == (name, family, layers)
    assert (description.channels, description.default_norm, description.minimum_size) == (
        channels,
        norm,
        size,
    )
    assert description.norms == NORMS
    assert minimum_size(name) == size


def test_every_listed_name_is_known() -> None:
    assert len(encoder_names()) == 8
    assert {parse_encoder(name).family for name in encoder_names()} == set(ENCODER_FAMILIES)


@pytest.mark.parametrize("name", ["resnet19", "RESNET18", "convnet_32", "convnet_032_2", "convnet_a_b", ""])
def test_an_unknown_name_is_answered_with_those_known(name: str) -> None:
    with pytest.raises(InputError, match=r"Unknown encoder .*vgg11.*convnet_<width>_<depth>"):
        parse_encoder(name)


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet34'"):
        parse_encoder("resnet-34")


@pytest.mark.parametrize("name", ["convnet_0_2", "convnet_32_0", "convnet_4097_2", "convnet_32_101"])
def test_an_impossible_conv_net_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="width is 1 to 4096 and the depth 1 to 100"):
        parse_encoder(name)


@pytest.mark.parametrize("norm", NORMS)
def test_a_possible_choice_passes(norm: str) -> None:
    parse_encoder("vgg11").check(norm=norm, width=0.25)


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unknown normalisation for vgg11 'bach'. Did you mean 'batch'"):
        parse_encoder("vgg11").check(norm="bach", width=1.0)


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf"), float("nan")])
def test_a_width_must_be_positive(width: float) -> None:
    with pytest.raises(InputError, match="width multiplier"):
        parse_encoder("vgg11").check(norm="none", width=width)


def test_images_must_be_large_enough() -> None:
    description = parse_encoder("vgg11")
    description.check_image(channels=3, size=32)
    with pytest.raises(InputError, match=r"31 x 31 .*at least 32 x 32.*data.size=32"):
        description.check_image(channels=3, size=31)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_images_are_grey_or_coloured(channels: int) -> None:
    parse_encoder("resnet18").check_image(channels=1, size=32)
    with pytest.raises(InputError, match=f"{channels} channels"):
        parse_encoder("resnet18").check_image(channels=channels, size=32)


def test_names_are_known_without_torch() -> None:
    code = "import sys, rt_scale.spec.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
