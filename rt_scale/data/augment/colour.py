"""Colour changes of a batch of views, each with its own factors: what torchvision has for one image.

Brightness, contrast, saturation and hue are those of torchvision.transforms.v2.functional (adjust_*),
on floats in [0, 1]. Images of one channel have no colour: saturation, hue and greyscale leave them as
they are, as in torchvision and PIL.
"""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import functional as transforms

from rt_scale.data.augment.draws import ViewDraws
from rt_scale.data.augment.host import moved, on_some

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jittered(pixels: torch.Tensor, draws: ViewDraws) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of every view, in its own order (``draws.order``).

    The first three are one operation, a blend with black, with the view's mean grey or with each pixel's
    grey: three blends in a row serve every order, and hue, much the dearest, comes before, between or
    after them for the views whose order says so.

    Args:
        pixels: float [N, C, S, S] in [0, 1], C = 1 or 3; may be overwritten.
        draws: of N views; ``draws.jitter`` is not looked at.
    """
    hue_at = (draws.order == HUE).int().argmax(dim=1)
    blends = draws.order[draws.order != HUE].view(-1, 3)
    factors = torch.stack([draws.brightness, draws.contrast, draws.saturation], dim=1).gather(1, blends)
    rest = 1 - factors
    parts = moved([factors, rest * (blends == CONTRAST), rest * (blends == SATURATION)], pixels.device, pixels.dtype)
    for position in range(4):
        if pixels.shape[1] == 3:
            pixels = on_some(pixels, hue_at == position, lambda some, rows: _turned(some, draws.hue[rows]))
        if position < 3:
            factor, of_mean, of_grey = parts[:, :, position, None, None, None].unbind()
            pixels = _blended(pixels, factor, of_mean, of_grey)
    return pixels


def greyscaled(pixels: torch.Tensor) -> torch.Tensor:
    """Views without colour: [N, C, S, S] with C equal channels."""
    grey: torch.Tensor = transforms.rgb_to_grayscale(pixels, num_output_channels=pixels.shape[1])
    return grey.contiguous()  # torchvision repeats one channel without copying it


def solarised(pixels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Views [N, C, S, S] in which values at or above ``threshold`` are inverted."""
    inverted: torch.Tensor = transforms.solarize(pixels, threshold)
    return inverted


def _blended(pixels: torch.Tensor, factor: torch.Tensor, of_mean: torch.Tensor, of_grey: torch.Tensor) -> torch.Tensor:
    """factor * pixels + of_mean * mean grey + of_grey * grey, cut to [0, 1]; the three are [N, 1, 1, 1]."""
    grey = transforms.rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels
    base = torch.addcmul(grey.mean(dim=(1, 2, 3), keepdim=True) * of_mean, grey, of_grey)
    return torch.addcmul(base, pixels, factor).clamp_(0, 1)


def _turned(pixels: torch.Tensor, hue: torch.Tensor) -> torch.Tensor:
    """Colours turned around the circle at constant value and saturation (HSV).

    With value v = max, range c = max - min and hue h in sixths of the circle, a channel is
    v - c * clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue.
    ``hue`` is the turn, float64 [N] on the host, in shares of the circle.
    """
    turn = moved([hue * 6], pixels.device, pixels.dtype)[0, :, None, None]
    low, high = torch.aminmax(pixels, dim=1)
    span = high - low
    divisor = torch.where(span > 0, span, 1.0)  # without colour the hue is 0, and then of no effect
    red, green, blue = pixels.unbind(dim=1)
    angle = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    angle += turn
    channels = []
    for offset in (5, 3, 1):
        k = torch.remainder(angle + offset, 6)
        channels.append(high - span * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)
