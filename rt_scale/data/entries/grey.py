"""Digits, MNIST and Fashion-MNIST: grey images."""

from __future__ import annotations

from rt_scale.data.info import PUBLISHED, DataInfo, downloads

_DIGIT_NAMES = tuple("0123456789")
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

DIGITS = DataInfo(
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
    reader="digits",
)

MNIST = DataInfo(
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
    reader="idx",
    downloads=downloads(
        _MNIST_URL,
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    checksums=(
        ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
        ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
        ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
        ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
    ),
)

FASHION_MNIST = DataInfo(
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    size=28,
    channels=1,
    train=60_000,
    test=10_000,
    mean=(0.2860,),
    std=(0.3530,),
    stats_source=PUBLISHED,
    origin="the four idx files of Zalando Research",
    reader="idx",
    downloads=downloads(
        _FASHION_URL,
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    checksums=(
        ("train-images-idx3-ubyte", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        ("train-labels-idx1-ubyte", "9018921c3c673c538a1fc5bad174d6f9"),
        ("t10k-images-idx3-ubyte", "8181f5470baa50b63fa0f6fddb340f0a"),
        ("t10k-labels-idx1-ubyte", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
    package="dataset-fashion-mnist",
    package_folder="/usr/share/datasets/fashion-mnist",
)
