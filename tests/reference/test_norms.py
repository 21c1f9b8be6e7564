"""Normalisation layers against their formulas, one group of numbers at a time in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rt_scale.models.encoder import NORM_LAYERS

IMAGES, CHANNELS, HEIGHT, WIDTH = 3, 32, 2, 5
EPSILON = 1e-5

# norm -> which numbers (image, channel) are normalised together with which.
GROUPS: dict[str, Callable[[int, int], object]] = {
    "batch": lambda image, channel: channel,
    "instance": lambda image, channel: (image, channel),
    "group8": lambda image, channel: (image, channel // 8),
    "layer": lambda image, channel: image,
}


def naive(maps: Tensor, scale: Tensor, shift: Tensor, group: Callable[[int, int], object]) -> Tensor:
    result = torch.empty_like(maps)
    for image in range(IMAGES):
        for channel in range(CHANNELS):
            together = [
                maps[i, c].flatten()
                for i in range(IMAGES)
                for c in range(CHANNELS)
                if group(i, c) == group(image, channel)
            ]
            numbers = torch.cat(together)
            mean = numbers.sum() / len(numbers)
            variance = ((numbers - mean) ** 2).sum() / len(numbers)
            result[image, channel] = (maps[image, channel] - mean) / (variance + EPSILON).sqrt()
            result[image, channel] = result[image, channel] * scale[channel] + shift[channel]
    return result


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


@pytest.mark.parametrize("norm", GROUPS)
def test_a_normalisation_in_training_is_its_formula(norm: str) -> None:
    layer = NORM_LAYERS[norm](CHANNELS).double().train()
    with torch.no_grad():
        layer.weight.copy_(draw(CHANNELS))
        layer.bias.copy_(draw(CHANNELS, 1)[:, 0])
        maps = 3 * draw(IMAGES, CHANNELS, HEIGHT, WIDTH) + 1
        expected = naive(maps, layer.weight, layer.bias, GROUPS[norm])
        torch.testing.assert_close(layer(maps), expected)
        last = maps.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(layer(last), expected)


def test_none_is_the_identity() -> None:
    maps = draw(IMAGES, CHANNELS, HEIGHT, WIDTH)
    assert torch.equal(NORM_LAYERS["none"](CHANNELS)(maps), maps)


def test_a_fresh_batch_norm_in_evaluation_mode_divides_by_almost_1() -> None:
    """The teacher's: mean 0, variance 1, so that it is the network without normalisation but for epsilon."""
    maps = draw(IMAGES, CHANNELS, HEIGHT, WIDTH)
    layer = NORM_LAYERS["batch"](CHANNELS).double().eval()
    torch.testing.assert_close(layer(maps), maps / (1 + EPSILON) ** 0.5)
