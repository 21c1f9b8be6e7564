"""Gaussian noise in place of images: every sample is a function of seed and index, computed on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from rt_scale.data.loaders.base import Images, Loader, Order
from rt_scale.spec.run import stream

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, as fractions of 2**32
ROUNDS = 10
WORD = 0xFFFFFFFF


Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four int64 tensors of 32-bit words, in [0, 2**32); their shapes broadcast to one."""


def philox(counter: Words, key: int) -> Words:
    """Philox-4x32-10 of every counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Integer arithmetic, so every device gives the same bits. ``counter`` has its lowest word first; ``key`` is in
    [0, 2**64).
    """
    a, b, c, d = counter
    low, high = key & WORD, key >> 32
    for _ in range(ROUNDS):
        # A product of two words wraps in int64: its 64 bits are right, its sign is not. b and d keep a product's
        # upper half for one round, until the mask removes it.
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = ((second >> 32) ^ b ^ low) & WORD, second
        c, d = ((first >> 32) ^ d ^ high) & WORD, first
        low, high = (low + KEY_STEPS[0]) & WORD, (high + KEY_STEPS[1]) & WORD
    return a, b & WORD, c, d & WORD


def gaussian_images(
    index: torch.Tensor,
    *,
    seed: int,
    shape: Sequence[int],
    sigma: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Independent draws from N(0, sigma^2), [B, *shape], contiguous; sample i is a pure function of (seed, i).

    Box-Muller on 32-bit uniforms of Philox-4x32-10, in float64 and rounded at the end, so that devices agree to
    rounding although their logarithms and cosines differ in the last bit. No value is beyond 6.76 sigma (1e-11 of a
    normal distribution is).

    Args:
        index: int64 [B], at least 0, on any device.
        seed: the data seed, of the stream ``data.gaussian``.
        shape: of a sample, filled in row-major order, so that a smaller sample is the head of a larger one.
        sigma: standard deviation.
        dtype: float32 or float64.
    """
    values = math.prod(shape)
    sample = index.to(device)[:, None]
    block = torch.arange(-(-values // 4), device=device)[None]
    counter = (block, torch.zeros_like(block), sample & WORD, sample >> 32)
    # Half a step from the ends of [0, 1], so that no logarithm is of 0.
    a, b, c, d = (word.double().add_(0.5).mul_(2.0**-32) for word in philox(counter, stream("data.gaussian", seed)))
    normal = torch.stack([*_box_muller(a, b), *_box_muller(c, d)], dim=-1).flatten(1)[:, :values]
    return normal.mul_(sigma).to(dtype).reshape(len(sample), *shape).contiguous()


def _box_muller(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two independent standard normal numbers from two uniform ones in (0, 1)."""
    radius, angle = (-2 * one.log()).sqrt_(), 2 * math.pi * other
    return radius * angle.cos(), radius * angle.sin()


class GaussianLoader(Loader):
    """Batches of noise as network inputs, float [B, H, W, C]; all labels are 0.

    ``to_inputs`` with the mean and std of a ``NoiseSet`` changes only their layout.

    Args:
        samples: the first n of a larger number are the same.
        size: height and width in pixels.
        sigma: standard deviation of every value.
        drawn: the data seed, which decides the samples' values.
        dtype: float32 or float64.
        order: the other arguments of ``Loader``.
    """

    def __init__(
        self,
        samples: int,
        size: int,
        channels: int,
        sigma: float,
        *,
        drawn: int,
        dtype: torch.dtype = torch.float32,
        **order: Unpack[Order],
    ) -> None:
        super().__init__(np.zeros(samples, np.int64), **order)
        self.image_shape = (size, size, channels)
        self.sigma, self.drawn, self.dtype = sigma, drawn, dtype

    def _images(self, host: torch.Tensor, there: torch.Tensor, mine: Sequence[slice]) -> Images:
        for share in mine:
            index, shape = there[share], self.image_shape
            yield gaussian_images(
                index, seed=self.drawn, shape=shape, sigma=self.sigma, dtype=self.dtype, device=self.device
            )
