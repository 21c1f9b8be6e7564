"""Grey images: scikit-learn's digits, and MNIST and Fashion-MNIST as idx files, plain or gzipped."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import math
from pathlib import Path

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
from rt_scale.data.subsets import stratified_split
from rt_scale.spec.errors import InputError

SPLIT_SEED = 0


def read_digits(data: DataSet, source: Source) -> Original:
    """Read scikit-learn's digits, with values scaled from 0..16 to 0..255 and a stratified 80/20 split."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, SPLIT_SEED)
    return Original(
        data.info,
        in_memory(images[train], labels[train]),
        in_memory(images[test], labels[test]),
        notes={"split": f"80/20, stratified, stream data.split, seed {SPLIT_SEED}"},
    )


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# Some mirrors name it train-images.idx3-ubyte.
_RELEASES = tuple(
    Release(tuple(name.replace("-idx", idx) + suffix for name in FILES))
    for idx in ("-idx", ".idx")
    for suffix in ("", ".gz")
)


def read_idx(data: DataSet, source: Source) -> Original:
    """Read the four idx files; raises as ``release_files``, also if a file is damaged."""
    _, files = release_files(data, source)
    train, train_labels, test, test_labels = (
        _array(data, source, name, file) for name, file in zip(FILES, files.values(), strict=True)
    )
    for images, labels in ((train, train_labels), (test, test_labels)):
        if images.shape != (len(labels), data.size, data.size):
            raise InputError(
                f"The files in '{source.path}' hold images of {images.shape} and {len(labels)} labels; '{data.name}' "
                f"has {data.size} x {data.size} pixels and a label an image."
            )
    return Original(data.info, in_memory(train[..., None], train_labels), in_memory(test[..., None], test_labels))


def _array(data: DataSet, source: Source, name: str, file: Path) -> np.ndarray:
    with reading(f"{source.path}: {file.name}", data.advice):
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as stream:
            content = stream.read(max(data.train, data.test) * data.size**2 + 4096)  # limited, against gzip bombs
        data.check_md5(name, hashlib.md5(content, usedforsecurity=False).hexdigest(), f"the contents of '{file.name}'")
        return _parse(content, 3 if "images" in name else 1)


def _parse(content: bytes, dimensions: int) -> np.ndarray:
    """uint8 values in the shape of the header; ValueError if the header or the length is wrong."""
    header = np.frombuffer(content[: 4 * (1 + dimensions)], ">u4").tolist()
    if header[:1] != [0x800 + dimensions] or len(header) <= dimensions:
        raise ValueError("it does not begin like the idx file its name announces")
    values = np.frombuffer(content, np.uint8, offset=4 * len(header))
    if len(values) != math.prod(header[1:]):
        raise ValueError(f"its header announces {header[1:]}, it holds {len(values):,} bytes: truncated, or damaged")
    return values.reshape(header[1:])


_DIGIT_NAMES = tuple("0123456789")
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

DIGITS = DataSet(
    name="digits",
    title="Digits",
    classes=_DIGIT_NAMES,
    size=8,
    channels=1,
    train=1437,
    test=360,
    mean=(0.30478,),
    std=(0.37565,),
    stats_source="measured on the 1,437 training images of our split",
    origin="bundled with scikit-learn (load_digits, from UCI's optical digits); 80/20 split by us",
    read=read_digits,
)

MNIST = DataSet(
    name="mnist",
    title="MNIST",
    classes=_DIGIT_NAMES,
    size=28,
    channels=1,
    train=60_000,
    test=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    stats_source=PUBLISHED,
    origin="the four idx files of LeCun, Cortes and Burges",
    read=read_idx,
    releases=_RELEASES,
    downloads=downloads(
        _MNIST_URL,
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    checksums={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)

FASHION_MNIST = dataclasses.replace(
    MNIST,
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    mean=(0.2860,),
    std=(0.3530,),
    origin="the four idx files of Zalando Research",
    downloads=downloads(
        _FASHION_URL,
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    checksums={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    package="dataset-fashion-mnist",
    package_folder="/usr/share/datasets/fashion-mnist",
)
