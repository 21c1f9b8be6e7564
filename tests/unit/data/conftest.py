"""Small originals in the official formats, and a catalogue entry that announces them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rt_scale.data import beton
from rt_scale.data.beton import Beton, open_beton, write
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.base import DataSet, Source


@pytest.fixture
def make_beton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Beton, np.ndarray]]:
    """Writes ``n`` random images of a shape, with a largest page, and gives the open file with what was written."""

    def make(n: int, shape: tuple[int, int, int] = (4, 4, 3), page: int = 8 << 20) -> tuple[Beton, np.ndarray]:
        images = np.random.default_rng(n).integers(0, 256, (n, *shape), np.uint8)
        path = tmp_path / f"{n}.beton"
        monkeypatch.setattr(beton, "DEFAULT_PAGE", page)
        write(path, [images], np.arange(n) % 7, image_shape=shape)
        return open_beton(path), images

    return make


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataSet]:
    """Shrinks a catalogue entry to a few images without official checksums."""

    def shrink(name: str, train: int, test: int, **changes: object) -> DataSet:
        data = dataclasses.replace(DATASETS[name], train=train, test=test, **{"checksums": {}, **changes})
        monkeypatch.setitem(DATASETS, name, data)
        return data

    return shrink


@pytest.fixture
def save_images() -> Callable[..., None]:
    """Saves images as ``<root>/<class>/<number>.png``."""

    def save(root: Path, classes: dict[str, int], shape: tuple[int, ...] = (6, 6, 3), seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        for name, count in classes.items():
            (root / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(root / name / f"{number:03}.png")

    return save


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def pets(tmp_path: Path, save_images: Callable[..., None]) -> Path:
    save_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    return tmp_path / "pets"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Callable[..., Source]]:
    """Makes what a reader is given of a path, with a scratch folder of its own."""
    scratch = tmp_path / "scratch"
    with ExitStack() as stack:

        def make(path: Path, size: int | None = None, split_seed: int = 0) -> Source:
            scratch.mkdir(exist_ok=True)
            return Source(path, scratch, stack, size, split_seed)

        yield make
