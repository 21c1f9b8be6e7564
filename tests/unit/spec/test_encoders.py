from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from rt_scale.spec.data import DataSpec
from rt_scale.spec.encoders import ENCODER_FAMILIES, NORMS, encoder_names, parse_encoder, scaled
from rt_scale.spec.errors import InputError


@pytest.mark.parametrize(
    ("name", "family", "layers", "channels", "norm", "size"),
    [
        ("resnet18", "resnet", 18, None, "batch", 8),
        ("resnet50", "resnet", 50, None, "batch", 8),
        ("vgg11", "vgg", 11, None, "none", 32),
        ("convnet_32_2", "convnet", 2, 32, "none", 2),
        ("convnet_7_11", "convnet", 11, 7, "none", 2),
        ("resnet20", "cifar_resnet", 20, None, "batch", 4),
        ("preresnet50", "preresnet", 50, None, "batch", 8),
        ("vit_small", "vit", 12, 384, "layer", 8),
        ("vit_base_shared", "vit_shared", 12, 768, "layer", 16),
        ("mlp_512_3", "mlp", 3, 512, "none", 1),
        ("flatten", "flatten", 0, None, "none", 1),
    ],
)
def test_a_name_is_described(name: str, family: str, layers: int, channels: int | None, norm: str, size: int) -> None:
    description = parse_encoder(name)
    assert (description.name, description.family, description.layers) == (name, family, layers)
    design = description.design
    assert (description.channels, design.default_norm, design.minimum_size) == (channels, norm, size)


def test_every_listed_name_is_known() -> None:
    assert len(encoder_names()) == len(set(encoder_names())) == 23
    assert {parse_encoder(name).family for name in encoder_names()} == set(ENCODER_FAMILIES)


@pytest.mark.parametrize(
    "name", ["resnet19", "RESNET18", "convnet_32", "convnet_032_2", "convnet_a_b", "mlp_3", "vit_shared", "resnet", ""]
)
def test_an_unknown_name_is_answered_with_those_known(name: str) -> None:
    with pytest.raises(InputError, match=r"Unknown encoder .*vgg11.*convnet_<width>_<depth>"):
        parse_encoder(name)


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(InputError, match="Did you mean 'resnet34'"):
        parse_encoder("resnet-34")


@pytest.mark.parametrize("name", ["convnet_0_2", "convnet_32_0", "convnet_4097_2", "convnet_32_101", "mlp_0_1"])
def test_an_impossible_conv_net_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="width is 1 to 4096 and the depth 1 to 100"):
        parse_encoder(name)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["resnet18", "resnet56", "preresnet50", "vgg11", "convnet_32_2"])
def test_every_convolutional_encoder_has_every_normalisation(name: str, norm: str) -> None:
    parse_encoder(name).check(norm=norm, width=0.5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "own", "reason"),
    [
        ("vit_tiny", "layer", "layer norms of their own"),
        ("vit_base_shared", "layer", "layer norms of their own"),
        ("mlp_8_2", "none", "no feature maps"),
        ("flatten", "none", "no layers at all"),
    ],
)
def test_the_others_have_one_and_say_why(name: str, own: str, reason: str, norm: str) -> None:
    description = parse_encoder(name)
    assert description.design.default_norm == own
    if norm == own:
        description.check(norm=norm, width=1.0)
        return
    with pytest.raises(InputError, match=f"cannot have normalisation '{norm}': .*{reason}.*which means {own}"):
        description.check(norm=norm, width=1.0)


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [("resnet18", 0.0625, 4), ("resnet20", 0.25, 4), ("resnet20", 0.75, 12), ("convnet_12_2", 1.0, 12)],
)
def test_groups_of_eight_need_multiples_of_eight_channels(name: str, width: float, channels: int) -> None:
    with pytest.raises(InputError, match=rf"stage of {channels} channels, .*'group8' cannot divide into groups of 8"):
        parse_encoder(name).check(norm="group8", width=width)
    parse_encoder(name).check(norm="layer", width=width)


@pytest.mark.parametrize("name", [name for family in ("vit", "vit_shared") for name in ENCODER_FAMILIES[family].names])
def test_heads_share_tokens_equally(name: str) -> None:
    description = parse_encoder(name)
    assert description.heads == {"tiny": 3, "small": 6, "medium": 8, "base": 12}[name.split("_")[1]]
    description.check(norm="layer", width=0.5)
    if description.heads > 1:
        with pytest.raises(InputError, match=rf"{description.heads} attention heads cannot share equally"):
            description.check(norm="layer", width=1 + 1 / (description.channels or 1))


def test_attention_over_heads_is_the_published_vits() -> None:
    parse_encoder("vit_tiny_shared").check(norm="layer", width=1.0, attention="heads")
    for name, norm in (("vit_tiny", "layer"), ("resnet18", "batch"), ("flatten", "none")):
        parse_encoder(name).check(norm=norm, width=1.0, attention="tokens")
        with pytest.raises(InputError, match=r"published variant .*vit_tiny_shared to vit_base_shared"):
            parse_encoder(name).check(norm=norm, width=1.0, attention="heads")
    with pytest.raises(InputError, match="Did you mean 'heads'"):
        parse_encoder("vit_tiny_shared").check(norm="layer", width=1.0, attention="head")


def test_flatten_has_no_width() -> None:
    with pytest.raises(InputError, match=r"no channels to multiply by 0\.5"):
        parse_encoder("flatten").check(norm="none", width=0.5)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (64, 0.001, 1), (3, 1.5, 4), (5, 0.5, 2)],
)
def test_widths_are_rounded_to_at_least_one(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unknown normalisation for vgg11 'bach'. Did you mean 'batch'"):
        parse_encoder("vgg11").check(norm="bach", width=1.0)


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf"), float("nan")])
def test_a_width_must_be_positive(width: float) -> None:
    with pytest.raises(InputError, match="width multiplier"):
        parse_encoder("vgg11").check(norm="none", width=width)


def test_images_must_be_large_enough() -> None:
    description = parse_encoder("vgg11")
    description.check_image(channels=3, size=32, norm="none", width=1.0)
    with pytest.raises(InputError, match=r"31 x 31 .*at least 32 x 32.*data.size=32"):
        description.check_image(channels=3, size=31, norm="none", width=1.0)


@pytest.mark.parametrize(("name", "size", "offered"), [("vit_tiny", 28, 32), ("vit_tiny_shared", 24, 32)])
def test_images_must_be_a_whole_number_of_patches(name: str, size: int, offered: int) -> None:
    parse_encoder(name).check_image(channels=3, size=offered, norm="layer", width=1.0)
    with pytest.raises(InputError, match=rf"{size} x {size} pixels cannot be cut .*data.size={offered}"):
        parse_encoder(name).check_image(channels=3, size=size, norm="layer", width=1.0)


@pytest.mark.parametrize("name", encoder_names())
def test_a_size_that_is_advised_is_taken(name: str) -> None:
    description = parse_encoder(name)
    for norm, size in itertools.product(description.design.norms, (1, 2, 3, 4, 7, 30, 33, 509, 513, 700)):
        try:
            description.check_image(channels=3, size=size, norm=norm, width=1.0)
        except InputError as error:
            advised = int(str(error).partition("data.size=")[2].split()[0])
            description.check_image(channels=3, size=advised, norm=norm, width=1.0)
            assert DataSpec(name="pets", size=advised).size == advised


def test_advice_names_the_field_that_it_is_for() -> None:
    with pytest.raises(InputError, match=r"Set augment.local_size=32 to"):
        parse_encoder("vgg11").check_image(channels=3, size=8, norm="none", width=1.0, setting="augment.local_size")


def test_instance_norm_needs_maps_of_more_than_one_value() -> None:
    description = parse_encoder("resnet18")
    description.check_image(channels=3, size=9, norm="instance", width=1.0)
    description.check_image(channels=3, size=8, norm="group8", width=1.0)
    with pytest.raises(InputError, match=r"1 x 1 for images of 8 x 8 .*variance is 0.*data.size=9"):
        description.check_image(channels=3, size=8, norm="instance", width=1.0)
    with pytest.raises(InputError, match="normalisation 'layer' would be over single values"):
        description.check_image(channels=3, size=8, norm="layer", width=0.002)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_images_are_grey_or_coloured(channels: int) -> None:
    parse_encoder("resnet18").check_image(channels=1, size=32, norm="batch", width=1.0)
    with pytest.raises(InputError, match=f"{channels} channels"):
        parse_encoder("resnet18").check_image(channels=channels, size=32, norm="batch", width=1.0)


def test_names_are_known_without_torch() -> None:
    code = "import sys, rt_scale.spec.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
