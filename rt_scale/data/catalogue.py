"""The data sets known by name: classes, sizes, statistics with their source, originals with checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Download:
    """One original file as its publisher offers it."""

    file: str
    """File name."""
    url: str
    """Where it is fetched from when, and only when, a download is asked for."""
    md5: str
    """MD5 of the file as downloaded, hexadecimal."""


@dataclass(frozen=True)
class DataInfo:
    """What is known of a data set of square images with one label each."""

    name: str
    """The name it is asked for by, also the name of its folder."""
    title: str
    """The name for tables and figures."""
    classes: tuple[str, ...]
    """Class names; a label is a position in it."""
    size: int
    """Height and width, pixels."""
    channels: int
    """1 (grey) or 3 (red, green, blue)."""
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""
    mean: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    """Per channel, of training pixels scaled to [0, 1]."""
    stats_source: str
    """Where mean and std come from."""
    origin: str
    """One sentence: where the original comes from."""
    reader: str = "folder"
    """Which reader of ``rt_scale.data.sources`` reads the original: digits, idx, cifar or folder."""
    downloads: tuple[Download, ...] = ()
    """The files that a download fetches; empty where there is nothing to fetch."""
    checksums: tuple[tuple[str, str], ...] = ()
    """(file name, MD5) of official files wherever they are found; of idx files, uncompressed."""
    package: str = ""
    """Debian package that installs the original, or empty."""
    package_folder: str = ""
    """Where that package puts it."""

    def to_json(self) -> dict[str, Any]:
        """As plain dicts and lists, for a JSON file."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> DataInfo:
        """The inverse of ``to_json`` after a round trip through JSON; TypeError on foreign keys."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        values["downloads"] = tuple(Download(**each) for each in values.get("downloads", ()))
        values["checksums"] = tuple((str(file), str(md5)) for file, md5 in values.get("checksums", ()))
        return DataInfo(**values)


_DIGIT_NAMES = tuple("0123456789")

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

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_PUBLISHED = "published values, as used throughout the literature; of the training images"


def _downloads(base: str, files: Mapping[str, str]) -> tuple[Download, ...]:
    return tuple(Download(file, base + file, md5) for file, md5 in files.items())


_DIGITS = DataInfo(
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

_MNIST = DataInfo(
    name="mnist",
    title="MNIST",
    classes=_DIGIT_NAMES,
    size=28,
    channels=1,
    train=60_000,
    test=10_000,
    mean=(0.1307,),
    std=(0.3081,),
    stats_source=_PUBLISHED,
    origin="the four idx files of LeCun, Cortes and Burges",
    reader="idx",
    downloads=_downloads(
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

_FASHION_MNIST = DataInfo(
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
    stats_source=_PUBLISHED,
    origin="the four idx files of Zalando Research",
    reader="idx",
    downloads=_downloads(
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

_CIFAR10 = DataInfo(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    stats_source=_PUBLISHED,
    origin="the python or the binary release of Krizhevsky",
    reader="cifar",
    downloads=_downloads(_CIFAR_URL, {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    checksums=(
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
    ),
)

_CIFAR100 = DataInfo(
    name="cifar100",
    title="CIFAR-100",
    classes=_CIFAR100_CLASSES,
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    stats_source=_PUBLISHED,
    origin="the python or the binary release of Krizhevsky; fine labels",
    reader="cifar",
    downloads=_downloads(_CIFAR_URL, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    checksums=(
        ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ("train", "16019d7e3df5f24257cddd939b257f8d"),
        ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    ),
)

DATASETS: dict[str, DataInfo] = {info.name: info for info in (_DIGITS, _MNIST, _FASHION_MNIST, _CIFAR10, _CIFAR100)}
"""Every data set known by name; a folder of the user's own images gets its DataInfo when it is prepared."""
