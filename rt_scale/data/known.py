"""What is known of the data sets of a queue without preparing any, Gaussian inputs among them. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.info import DataInfo
from rt_scale.data.places import prepare_command
from rt_scale.data.prepared import load
from rt_scale.spec.data import GAUSSIAN, DataSpec
from rt_scale.spec.run import RunSpec

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


BUNDLED = "digits"
"""The set that needs no preparing by hand."""


@dataclass(frozen=True)
class KnownData:
    """What is known of data sets.

    Attributes:
        infos: by name: as prepared, else as the catalogue has them. Gaussian inputs are under their spec's text.
        missing: name -> the command that prepares it, of those that are not.
    """

    infos: dict[str, DataInfo] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def main(self, spec: RunSpec) -> DataInfo | None:
        """Of the set that ``spec`` distils on; None where nothing is known of it."""
        return _drawn(spec.data) if spec.data.name == GAUSSIAN else self.infos.get(spec.data.name)

    def unknown(self, spec: RunSpec) -> list[str]:
        """Names of the sets of ``spec`` that nothing is known of."""
        return [name for name in _names(spec) if name not in self.infos]


def known_data(specs: Iterable[RunSpec], data_dir: Path) -> KnownData:
    """Look for the data sets of ``specs``.

    Args:
        specs: the runs.
        data_dir: where prepared data sets are.

    Raises:
        InputError: where one is damaged.
    """
    known = KnownData()
    for name in dict.fromkeys(name for spec in specs for name in _names(spec)):
        prepared = load(name, data_dir)
        if prepared is not None:
            known.infos[name] = prepared.info
            continue
        if name in DATASETS:
            known.infos[name] = DATASETS[name]
        if name != BUNDLED:
            known.missing[name] = prepare_command(name, data_dir)
    return known


def _names(spec: RunSpec) -> list[str]:
    return [name for name in (spec.data.name, *spec.probe.also) if name != GAUSSIAN]


def _drawn(data: DataSpec) -> DataInfo:
    return noise_set(data.name, data.samples or 1, data.size or 1, data.channels or 3, data.sigma or 1.0).info
