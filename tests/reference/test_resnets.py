"""CIFAR and pre-activation ResNets against their papers' formulas, written with functions alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from rt_scale.models.encoder import Encoder
from rt_scale.models.encoders import build_encoder
from rt_scale.models.networks import initialise
from rt_scale.spec.networks import EncoderSpec


def build(name: str, norm: str) -> Encoder:
    with torch.device("meta"):
        encoder = build_encoder(EncoderSpec(name=name, norm=norm, width=0.5), channels=3, size=16)
    generator = torch.Generator().manual_seed(0)
    encoder = initialise(encoder.to_empty(device="cpu"), generator).double()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)
                module.running_var.add_(torch.rand(module.running_var.shape, generator=generator))
    return encoder.eval()


def normed(layer: nn.Module, maps: Tensor) -> Tensor:
    if isinstance(layer, nn.Identity):
        return maps
    mean, variance, scale, shift = (
        tensor.view(1, -1, 1, 1) for tensor in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (maps - mean) / (variance + 1e-5).sqrt() * scale + shift


def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet56", 9)])
def test_cifar_resnets_are_those_of_he_et_al_2015(name: str, blocks: int, norm: str) -> None:
    encoder = build(name, norm)
    maps = relu(normed(encoder.bn1, conv2d(images(), encoder.conv1.weight, padding=1)))
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3):
        assert len(stage) == blocks
        for number, block in enumerate(stage):
            stride = 2 if number == 0 and stage is not encoder.layer1 else 1
            residual = relu(normed(block.bn1, conv2d(maps, block.conv1.weight, stride=stride, padding=1)))
            residual = normed(block.bn2, conv2d(residual, block.conv2.weight, padding=1))
            if stride == 2:
                maps = normed(block.downsample[1], conv2d(maps, block.downsample[0].weight, stride=2))
            maps = relu(residual + maps)
    torch.testing.assert_close(encoder(images()), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(
    ("name", "blocks", "strides"),
    [("preresnet18", (2, 2, 2, 2), (1, 0)), ("preresnet34", (3, 4, 6, 3), (1, 0)),
     ("preresnet50", (3, 4, 6, 3), (0, 1, 0))],
)  # fmt: skip
def test_pre_activation_resnets_are_those_of_he_et_al_2016(
    name: str, blocks: tuple[int, ...], strides: tuple[int, ...], norm: str
) -> None:
    """``strides`` says which of a block's convolutions takes the stage's stride."""
    encoder = build(name, norm)
    maps = conv2d(images(), encoder.stem.weight, padding=1)
    left = iter(encoder.blocks)
    for stage, count in enumerate(blocks):
        for number in range(count):
            block = next(left)
            stride = 2 if stage > 0 and number == 0 else 1
            activated = residual = relu(normed(block.norms[0], maps))
            for i, convolution in enumerate(block.convolutions):
                if i > 0:
                    residual = relu(normed(block.norms[i], residual))
                step = stride if strides[i] else 1
                padding = convolution.weight.shape[-1] // 2
                residual = conv2d(residual, convolution.weight, stride=step, padding=padding)
            shortcut = maps
            if maps.shape[1] != residual.shape[1] or stride == 2:
                shortcut = conv2d(activated, block.shortcut.weight, stride=stride)
            maps = shortcut + residual
    assert next(left, None) is None
    torch.testing.assert_close(encoder(images()), relu(normed(encoder.norm, maps)).mean(dim=(2, 3)))
