from __future__ import annotations

import pytest
import torch
from torch import nn

from rt_scale.models.encoder import NORM_LAYERS
from rt_scale.models.encoders import build_encoder
from rt_scale.spec.encoders import ENCODER_FAMILIES, NORMS
from rt_scale.spec.errors import InputError
from rt_scale.spec.networks import EncoderSpec

KINDS = {
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "group8": nn.GroupNorm,
    "layer": nn.GroupNorm,
    "none": nn.Identity,
}
CONVOLUTIONAL = [name for family in ENCODER_FAMILIES.values() if family.norms == NORMS for name in family.names]


def build(name: str, norm: str, *, width: float = 1.0, size: int = 32) -> nn.Module:
    with torch.device("meta"):
        return build_encoder(EncoderSpec(name=name, norm=norm, width=width), channels=3, size=size)


def test_every_normalisation_of_the_spec_can_be_built() -> None:
    assert set(NORM_LAYERS) == set(NORMS) == set(KINDS)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_an_encoder_has_the_normalisation_that_was_asked_for_and_no_other(name: str, norm: str) -> None:
    found = [module for module in build(name, norm).modules() if isinstance(module, tuple(KINDS.values()))]
    assert {type(module) for module in found} <= {KINDS[norm]}
    assert found or norm == "none"
    sizes = {
        (module.num_channels // module.num_groups, module.num_channels)
        for module in found
        if isinstance(module, nn.GroupNorm)
    }
    assert all(size == (8 if norm == "group8" else channels) for size, channels in sizes)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_all_normalisations_have_as_many_parameters(name: str) -> None:
    counts = {norm: sum(p.numel() for p in build(name, norm).parameters()) for norm in NORMS}
    assert counts["batch"] == counts["instance"] == counts["group8"] == counts["layer"] > counts["none"]


@pytest.mark.parametrize("norm", ["instance", "group8", "layer"])
def test_an_image_is_normalised_by_itself_in_training_and_in_evaluation(norm: str) -> None:
    layer = NORM_LAYERS[norm](16)
    maps = torch.randn(4, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([layer(one.unsqueeze(0)) for one in maps])
    torch.testing.assert_close(layer(maps), alone)
    torch.testing.assert_close(layer.eval()(maps), alone)


@pytest.mark.parametrize(
    ("name", "least"), [("resnet18", 9), ("resnet50", 9), ("preresnet34", 9), ("resnet20", 5), ("vgg11", 32),
                        ("convnet_32_2", 2)]
)  # fmt: skip
def test_the_least_size_for_instance_norm_is_the_least_that_gives_different_embeddings(name: str, least: int) -> None:
    encoder = build(name, "instance", width=0.25, size=least).to_empty(device="cpu")
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    embeddings = encoder(torch.randn(2, 3, least, least, generator=torch.Generator().manual_seed(1)))
    assert not torch.allclose(embeddings[0], embeddings[1], rtol=1e-3)
    with pytest.raises(InputError, match=r"1 x 1 for images|too small"):
        build(name, "instance", width=0.25, size=least - 1)


def test_a_layer_norm_of_single_values_is_refused() -> None:
    build("resnet18", "layer", width=0.004, size=8)
    with pytest.raises(InputError, match="normalisation 'layer' would be over single values"):
        build("resnet18", "layer", width=0.002, size=8)
