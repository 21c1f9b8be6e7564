"""A prepared data set of made-up images, where no real one can be taken along."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rt_scale.data.datasets.base import Original, in_memory
from rt_scale.data.meta import DataInfo, Request
from rt_scale.data.prepare import Prepared, open_prepared, write_splits
from rt_scale.data.prepared import move_into_place

NAME, CLASSES, SIZE = "synthetic", 10, 32


def write_synthetic(data_dir: Path, train: int, test: int) -> Prepared:
    """CIFAR-10's format: noise over one smooth pattern a class, so that probes have something to find.

    Args:
        data_dir: gets the set ``synthetic``.
        train, test: images of each split.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    coarse = generator.integers(64, 192, (CLASSES, 4, 4, 3), np.int64)
    patterns = coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % CLASSES
        generator.shuffle(labels)
        noise = generator.integers(-64, 64, (count, SIZE, SIZE, 3), np.int8)
        return (patterns.astype(np.int16)[labels] + noise).astype(np.uint8), labels

    info = DataInfo(
        name=NAME,
        title="Synthetic images",
        classes=tuple(map(str, range(CLASSES))),
        size=SIZE,
        channels=3,
        train=train,
        test=test,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        stats_source="measured here",
        origin="Made up for benchmarks.",
    )
    original = Original(info, in_memory(*split(train)), in_memory(*split(test)), measure=True)
    workplace = data_dir / ".work"
    workplace.mkdir(parents=True)
    meta = write_splits(original, Request(None, "", None, 0), workplace, None)
    move_into_place(meta, workplace, data_dir / NAME)
    workplace.rmdir()
    return open_prepared(NAME, data_dir)
