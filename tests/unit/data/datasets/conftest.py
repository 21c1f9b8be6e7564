"""Tiny originals in the published formats."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def write_idx() -> Callable[..., dict[str, np.ndarray]]:
    """Writes the four idx files of ``train`` and ``test`` images and gives their arrays by file name."""

    def make(folder: Path, train: int, test: int, suffix: str = "") -> dict[str, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        generator = np.random.default_rng(0)
        arrays = {}
        for part, count in (("train", train), ("t10k", test)):
            arrays[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (count, 28, 28), np.uint8)
            arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
        for name, array in arrays.items():
            header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
            content = header + array.tobytes()
            (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix == ".gz" else content)
        return arrays

    return make


def python2_pickle(batch: dict[str, object]) -> bytes:
    """A batch as numpy under python 2 pickled it: protocol 2, byte strings, numpy.core names."""
    data = batch["data"]
    assert isinstance(data, np.ndarray)

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def small(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN"
    dtype += small(-1) + small(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01(" + small(data.shape[0]) + small(data.shape[1]) + b"t" + dtype + b"\x89"
    array += text(data.tobytes()) + b"tb"
    items = text(b"data") + array
    for key, values in batch.items():
        if key != "data":
            assert isinstance(values, list)
            items += text(key.encode()) + b"](" + b"".join(map(small, values)) + b"e"
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture
def write_cifar() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Writes a release of CIFAR-10 or -100 and gives all images [N, 32, 32, 3] and labels, training first."""

    def make(
        folder: Path,
        classes: int,
        form: str,
        each: int = 3,
        archive: Path | None = None,
        label: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"] if classes == 10 else ["train", "test"]
        folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (len(names) * each, 32, 32, 3), np.uint8)
        labels = generator.integers(0, classes, len(images)) if label is None else np.full(len(images), label)
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for position, name in enumerate(names):
            here = slice(position * each, (position + 1) * each)
            chosen, key = labels[here].tolist(), "labels" if classes == 10 else "fine_labels"
            coarse = [0] * each
            if form == "binary":
                columns = [labels[here]] if classes == 10 else [np.array(coarse), labels[here]]
                content = np.column_stack([*columns, rows[here]]).astype(np.uint8).tobytes()
                (folder / f"{name}.bin").write_bytes(content)
            else:
                batch = {"data": rows[here], key: chosen, "coarse_labels": coarse}
                (folder / name).write_bytes(python2_pickle(batch))
        if archive is not None:
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(folder, folder.name)
        return images, labels

    return make
