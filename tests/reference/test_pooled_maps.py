"""A ReLU after its max pool gives what one before it gives, bit for bit, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.networks import initialise
from rt_scale.spec.networks import EncoderSpec

CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def encoder(name: str, norm: str = "none") -> Encoder:
    built = build_encoder(EncoderSpec.model_validate({"name": name, "norm": norm}), channels=3, size=32)
    initialise(built, torch.Generator().manual_seed(0))
    return built


def maps_and_gradients(features: nn.Module, images: Tensor) -> list[Tensor]:
    found: Tensor = features(images)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return [found, *torch.autograd.grad(found, [images, *features.parameters()], direction)]


def pictures(layout: torch.memory_format) -> Tensor:
    """Whole numbers at the left, so that values within a window are equal there."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    images[..., :16] = images[..., :16].round()
    return images.to(memory_format=layout).requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("name", "norm"), [*((name, "none") for name in CONFIGURATIONS), ("vgg11", "batch")])
def test_vgg_is_torchvisions(name: str, norm: str, layout: torch.memory_format) -> None:
    ours = encoder(name, norm).features
    theirs = make_layers(cfgs[CONFIGURATIONS[name]], batch_norm=norm == "batch")
    theirs.load_state_dict(ours.state_dict())
    ours, theirs = (each.to(memory_format=layout) for each in (ours, theirs))
    pairs = zip(maps_and_gradients(ours, pictures(layout)), maps_and_gradients(theirs, pictures(layout)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_conv_nets_relus_commute_with_its_pools() -> None:
    ours = encoder("convnet_8_3", "batch").features
    modules = list(ours)
    pools = [place for place, module in enumerate(modules) if isinstance(module, nn.MaxPool2d)]
    assert len(pools) == 2
    for place in pools:
        assert isinstance(modules[place + 1], nn.ReLU)
        modules[place], modules[place + 1] = modules[place + 1], modules[place]
    textbook = nn.Sequential(*modules)
    images = pictures(torch.channels_last)
    pairs = zip(maps_and_gradients(ours, images), maps_and_gradients(textbook, images), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
