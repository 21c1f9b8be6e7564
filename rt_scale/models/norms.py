"""Normalisation layers by name, and channel counts by width multiplier."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NormLayer = Callable[[int], nn.Module]
"""Makes the normalisation of a map of so many channels."""


def _nothing(channels: int) -> nn.Module:
    return nn.Identity()


NORM_LAYERS: dict[str, NormLayer] = {
    "batch": nn.BatchNorm2d,
    "none": _nothing,
}


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, rounded to the nearest whole number (half to even), at least 1."""
    return max(1, round(channels * width))
