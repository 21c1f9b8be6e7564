"""Stored pixels to encoder inputs: conversion, resizing and normalisation on the device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from rt_scale.spec.errors import InputError


def to_inputs(
    images: torch.Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    size: int | None,
    dtype: torch.dtype,
    *,
    channels_last: bool = True,
) -> torch.Tensor:
    """Normalised inputs: (pixel / 255 - mean) / std, per channel.

    Computed in float32 (float64 for a ``dtype`` of float64) and rounded to ``dtype`` at the end.

    Args:
        images: uint8 [B, H, W, C], or float in the same units (0 to 255), on any device.
        mean, std: C values each, of pixels scaled to [0, 1]; std above 0.
        size: resize to size x size (bilinear, antialiased); None: do not resize.
        dtype: float32, float64, bfloat16 or float16.
        channels_last: the memory format.

    Returns:
        [B, C, H, W] or [B, C, size, size] of ``dtype``, on the images' device.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise InputError(
            f"Images have {channels} channels; given are mean {tuple(mean)} and std {tuple(std)}. One value "
            "a channel is needed, std above 0."
        )
    working = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    pixels = images.permute(0, 3, 1, 2).to(working, memory_format=torch.channels_last)
    if size is not None and (size, size) != tuple(images.shape[1:3]):
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    scale, shift = _affine(tuple(mean), tuple(std), pixels.shape[2:], working, images.device)
    inputs = torch.addcmul(shift, pixels, scale).to(dtype, memory_format=torch.channels_last)
    # Copied, since .contiguous() keeps the strides of one-channel images, for which both formats are the same memory.
    return inputs if channels_last else torch.empty(inputs.shape, dtype=dtype, device=inputs.device).copy_(inputs)


@functools.lru_cache(maxsize=32)
def _affine(
    mean: tuple[float, ...], std: tuple[float, ...], size: torch.Size, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift, each [1, C, H, W], since broadcasting over 3 channels is slow on the CPU.

    Cached, because the host would wait for a GPU at each creation.
    """
    scale = [1 / (255 * each) for each in std]
    shift = [-centre / each for centre, each in zip(mean, std, strict=True)]
    make = functools.partial(torch.tensor, dtype=dtype, device=device)
    with torch.inference_mode(False):  # cached tensors are also used outside of inference mode
        spread = (make(each).view(1, -1, 1, 1).expand(-1, -1, *size) for each in (scale, shift))
        scale_map, shift_map = (each.contiguous(memory_format=torch.channels_last) for each in spread)
        return scale_map, shift_map
