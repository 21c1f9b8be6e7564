"""What is known of Gaussian inputs as a data set; apart from what draws them, since a driver needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from rt_scale.data.info import DataInfo

NOISE_MEAN = 0.0
"""With this mean and ``NOISE_STD`` a channel, ``to_inputs`` turns noise into network inputs bit for bit."""
NOISE_STD = 1 / 255


@dataclass(frozen=True)
class NoiseSet:
    """A data set of Gaussian inputs: known by its numbers alone, nothing on disk.

    Attributes:
        info: its description; it has no classes.
        sigma: standard deviation.
        sha256: of what makes its samples, in place of their contents.
    """

    info: DataInfo
    sigma: float
    sha256: str


def noise_set(name: str, samples: int, size: int, channels: int, sigma: float) -> NoiseSet:
    """The set of ``samples`` Gaussian inputs [size, size, channels] of standard deviation ``sigma``."""
    info = DataInfo(
        name=name,
        title=f"Gaussian noise (sigma {sigma:g})",
        classes=(),
        size=size,
        channels=channels,
        train=samples,
        test=0,
        mean=(NOISE_MEAN,) * channels,
        std=(NOISE_STD,) * channels,
        stats_source="network inputs as they are drawn",
        origin="a pure function of seed and index (Philox-4x32-10, Box-Muller)",
        labelled=False,
    )
    return NoiseSet(info, sigma, hashlib.sha256(f"{info.origin} {sigma!r}".encode()).hexdigest())
