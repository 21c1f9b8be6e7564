"""CIFAR-10 and CIFAR-100: python (pickle) and binary release, as archive or unpacked.

Security: a pickle may name any callable. Here numpy's names stand for a class of this module, which only keeps what
the pickle gives; all other names are refused.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any

import numpy as np

from rt_scale.data.datasets.base import (
    PUBLISHED,
    DataSet,
    Original,
    Release,
    Source,
    downloads,
    in_memory,
    release_files,
)
from rt_scale.data.files import reading

_PIXELS = 32 * 32 * 3


class _Given:
    """Replaces numpy's array and type: keeps their arguments and their state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The uint8 array; any exception if it is none."""
        _, shape, dtype, fortran, raw = self.state
        if dtype.arguments[0] != b"u1":
            raise ValueError(f"it holds an array of {dtype.arguments[0]!r}; only uint8 is accepted")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
        }:
            return _Given
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only arrays are accepted from such files")


def read_cifar(data: DataSet, source: Source) -> Original:
    """Read a release; raises as ``release_files``, also if a file is damaged."""
    release, files = release_files(data, source)
    batches = []
    for name, file in files.items():
        with reading(f"{source.path}: {name}", data.advice):
            batches.append((_binary if file.suffix == ".bin" else _pickled)(file.read_bytes(), len(data.classes)))
    *train, test = batches
    pixels, labels = (np.concatenate(each) for each in zip(*train, strict=True))
    return Original(
        data.info, in_memory(_images(pixels), labels), in_memory(_images(test[0]), test[1]),
        notes={"release": release.folder},
    )  # fmt: skip


def _images(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _pickled(content: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a python batch; any exception if it is not one."""
    batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    pixels, labels = batch[b"data"].array(), batch[b"labels" if classes == 10 else b"fine_labels"]
    if pixels.shape != (len(labels), _PIXELS) or not all(type(each) is int for each in labels):
        raise ValueError(f"it does not hold rows of {_PIXELS:,} pixels with an integer each")
    return pixels, np.array(labels, np.int64)


def _binary(content: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a binary batch; ValueError if it is cut."""
    before = 1 if classes == 10 else 2  # CIFAR-100 has the coarse and the fine label
    record = before + _PIXELS
    if not content or len(content) % record:
        raise ValueError(f"{len(content):,} bytes are not whole records of {record:,} bytes: truncated, or damaged")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, before:], records[:, before - 1].astype(np.int64)


_CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
    tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm
    """.split()  # noqa: SIM905 - a hundred quoted names are harder to check
)

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def _releases(files: tuple[str, ...], python: str, binary: str, archive: str) -> tuple[Release, Release]:
    """The python and the binary release in these folders; the last of ``files`` has the test images."""
    return (
        Release(files, python, f"{archive}-python.tar.gz"),
        Release(tuple(f"{name}.bin" for name in files), binary, f"{archive}-binary.tar.gz"),
    )


CIFAR10 = DataSet(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    stats_source=PUBLISHED,
    origin="the python or the binary release of Krizhevsky",
    read=read_cifar,
    releases=_releases(_BATCHES, "cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10"),
    downloads=downloads(_CIFAR_URL, {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    checksums={
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)

CIFAR100 = dataclasses.replace(
    CIFAR10,
    name="cifar100",
    title="CIFAR-100",
    classes=_CIFAR100_CLASSES,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    origin="the python or the binary release of Krizhevsky; fine labels",
    releases=_releases(("train", "test"), "cifar-100-python", "cifar-100-binary", "cifar-100"),
    downloads=downloads(_CIFAR_URL, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    checksums={
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)
