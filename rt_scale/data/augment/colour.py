"""Colour changes and blur of a batch of views, each view with its own factors.

Brightness, contrast, saturation and hue are those of torchvision.transforms.v2.functional (adjust_*),
on floats in [0, 1]. Images of one channel have no colour: saturation, hue and greyscale leave them as
they are, as in torchvision and PIL.
"""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from rt_scale.data.augment.draws import ViewDraws, moved, on_some


def blur_taps(largest_sigma: float, size: int) -> int:
    """Length of the kernel: three standard deviations to each side, as far as reflection can fill them."""
    return 2 * min(math.ceil(3 * largest_sigma), size - 1) + 1


def blurred(pixels: torch.Tensor, sigma: torch.Tensor, taps: int) -> torch.Tensor:
    """Every view blurred at its own sigma, edges reflected: torchvision's gaussian_blur.

    A blur is linear and separable, so it is rows @ view @ columns with one banded matrix for both, in
    which the reflection is already folded.

    Args:
        pixels: float [N, C, S, S].
        sigma: float64 [N] above 0, on the host; standard deviations in pixels.
        taps: length of the kernel, odd, at most 2 S - 1.
    """
    number, channels, size, _ = pixels.shape
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    kernels = torch.softmax(-0.5 * (offsets / sigma[:, None]) ** 2, dim=1)
    shifts = _reflected_shifts(size, taps, pixels.dtype, pixels.device)
    matrix = (moved([kernels], pixels.device, pixels.dtype)[0] @ shifts).view(number, size, size)
    across = torch.bmm(pixels.reshape(number, channels * size, size), matrix.mT).view_as(pixels)
    return torch.matmul(matrix[:, None], across)


@functools.lru_cache(maxsize=16)
def _reflected_shifts(size: int, taps: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """[taps, size * size]: for every tap the 0/1 matrix that reads it, edges reflected."""
    with torch.inference_mode(False):
        identity = torch.eye(size, dtype=dtype, device=device)
        padded = functional.pad(identity, (taps // 2, taps // 2), mode="reflect")  # [source, position]
        return padded.unfold(1, size, 1).permute(1, 2, 0).reshape(taps, -1).contiguous()


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
