"""Gaussian blur of a batch of views, each with its own standard deviation."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

from rt_scale.data.augment.host import moved


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
