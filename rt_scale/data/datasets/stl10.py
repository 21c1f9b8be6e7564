"""STL-10, labelled and unlabelled, in its binary release: as archive or unpacked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from rt_scale.data.datasets.base import DataSet, Original, Release, Source, Split, downloads, release_files
from rt_scale.data.datasets.images import at_size, chunk_length, scaled, workers
from rt_scale.data.files import reading

ARCHIVE = "stl10_binary.tar.gz"
_SIZE = 96
_IMAGE = 3 * _SIZE * _SIZE


def read_stl10(data: DataSet, source: Source) -> Original:
    """Read the release; images are mapped and scaled (bicubic, antialiased) a chunk at a time.

    Unlabelled images get label 0. Raises as ``release_files``, also if a file is cut or a label out of range.
    """
    info, notes = at_size(data.info, source.size)
    release, files = release_files(data, source)
    notes = {"release": release.folder, **notes}
    if not data.labelled:
        notes["labels"] = "the training images have none; all are written as 0"
    return Original(
        info,
        _split(data, source.path, info.size, files, "train" if data.labelled else "unlabeled"),
        _split(data, source.path, info.size, files, "test"),
        notes=notes,
        measure=not info.mean or info.size != data.size,
    )


def _split(data: DataSet, path: Path, size: int, files: dict[str, Path], part: str) -> Split:
    images, labels = f"{part}_X.bin", f"{part}_y.bin"
    with reading(f"{path}: {images}", data.advice):
        pixels = _map(files[images])
    classes = np.zeros(len(pixels), np.int64)
    if labels in files:
        with reading(f"{path}: {labels}", data.advice):
            classes = _labels(files[labels], len(pixels), len(data.classes))
    return Split(classes, lambda: _chunks(pixels, size))


def _map(file: Path) -> np.ndarray:
    """The images of a file, uint8 [n, 96, 96, 3]; in the file each channel is stored column by column."""
    size = file.stat().st_size
    if size == 0 or size % _IMAGE:
        raise ValueError(f"{size:,} bytes are not whole images of {_IMAGE:,} bytes: truncated, or damaged")
    return np.memmap(file, np.uint8, "r").reshape(-1, 3, _SIZE, _SIZE).transpose(0, 3, 2, 1)


def _labels(file: Path, images: int, classes: int) -> np.ndarray:
    """int64 [n], from 0; the release counts from 1."""
    stored = np.fromfile(file, np.uint8).astype(np.int64)
    if len(stored) != images:
        raise ValueError(f"it holds {len(stored):,} labels for {images:,} images: truncated, or damaged")
    if len(odd := np.flatnonzero((stored < 1) | (stored > classes))):
        raise ValueError(f"label {stored[odd[0]]} of image {odd[0]} is out of range: they are 1 to {classes}")
    return stored - 1


def _chunks(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    def resized(image: np.ndarray) -> np.ndarray:
        return np.asarray(scaled(Image.fromarray(image), size))

    length = chunk_length(max(size, _SIZE), 3)
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(pixels), length):
            chunk = np.ascontiguousarray(pixels[start : start + length])
            yield chunk if size == _SIZE else np.stack(list(pool.map(resized, chunk)))


def _release(*training: str) -> Release:
    return Release((*training, "test_X.bin", "test_y.bin"), "stl10_binary", ARCHIVE)


STL10 = DataSet(
    name="stl10",
    title="STL-10",
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    size=96,
    channels=3,
    train=5_000,
    test=8_000,
    mean=(0.4467, 0.4398, 0.4066),
    std=(0.2603, 0.2566, 0.2713),
    stats_source="published values of the 5,000 labelled training images at 96 x 96",
    origin="the binary release of Coates, Lee and Ng; labelled images",
    read=read_stl10,
    releases=(_release("train_X.bin", "train_y.bin"),),
    scalable=True,
    downloads=downloads("http://ai.stanford.edu/~acoates/stl10/", {ARCHIVE: "91f7769df0f17e558f3565bffb0c7dfb"}),
    checksums={
        "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "5a34089d4802c674881badbb80307741",
        "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
        "unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
    },
)

STL10_UNLABELED = dataclasses.replace(
    STL10,
    name="stl10_unlabeled",
    releases=(_release("unlabeled_X.bin"),),
    title="STL-10, unlabelled",
    train=100_000,
    mean=(),
    std=(),
    stats_source="measured on the unlabelled images when it is prepared",
    origin="the binary release of Coates, Lee and Ng; unlabelled images to train on, labelled ones to test on",
    labelled=False,
)
