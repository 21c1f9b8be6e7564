"""What a reader of originals hands over: two splits of images, not yet in memory where that can be helped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rt_scale.data.info import DataInfo
from rt_scale.spec.errors import InputError

CHUNK = 4096
"""Images a chunk."""


@dataclass(frozen=True)
class Split:
    """Training or test images with their labels."""

    labels: np.ndarray
    """int64 [N]."""
    chunks: Callable[[], Iterator[np.ndarray]]
    """Makes an iterator over all images in order, uint8 [b, H, W, C]."""


@dataclass(frozen=True)
class Original:
    """An original as read; ``info`` may still lack what only a pass over the pixels tells (mean and std)."""

    info: DataInfo
    train: Split
    test: Split
    notes: dict[str, str] = field(default_factory=dict)
    """What was decided on the way, for the record: splits made, images resized, files left out."""
    measure: bool = False
    """Whether mean and std are to be measured on the training images."""
    noticed: Callable[[], dict[str, str]] = dict
    """Notes that a pass over the images tells; called when both splits were read."""


def in_memory(images: np.ndarray, labels: np.ndarray) -> Split:
    """A split of images that are in memory already, uint8 [N, H, W, C]."""

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(images), CHUNK):
            yield np.ascontiguousarray(images[start : start + CHUNK])

    return Split(np.asarray(labels, np.int64), chunks)


def check(original: Original) -> None:
    """InputError where counts or labels are not those that ``info`` announces."""
    info = original.info
    for name, split, expected in (
        ("training", original.train, info.train),
        ("test", original.test, info.test),
    ):
        if len(split.labels) != expected:
            raise InputError(
                f"The original of '{info.name}' holds {len(split.labels):,} {name} images, {expected:,} are "
                "expected: it is incomplete or another release. Get the original again."
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(info.classes):
            raise InputError(
                f"Label {low if low < 0 else high} among the {name} images of '{info.name}' is out of range: "
                f"its {len(info.classes)} classes are numbered from 0. It is damaged or another release."
            )
