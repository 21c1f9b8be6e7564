"""CIFAR-10 and CIFAR-100: python (pickle) and binary release, as archive or unpacked.

Security: a pickle may name any callable. Here the allowed names map to classes of this module, which can hold only
uint8 arrays; all other names are refused.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rt_scale.data.datasets.base import PUBLISHED, DataSet, Original, Source, Split, downloads, in_memory, unpacked
from rt_scale.data.files import md5_of, reading
from rt_scale.spec.errors import InputError

_PIXELS = 32 * 32 * 3
_LARGEST = 1 << 28
"""Limit in bytes of a member that is read into memory."""


def load_arrays(content: bytes) -> dict[str, object]:
    """The pickled dict of uint8 arrays, lists, numbers and strings; strings of python 2 are bytes, except keys.

    Raises pickle.UnpicklingError for any other object, and any exception on damaged input.
    """
    value = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(value, dict):
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, not a dict")
    return {_text(key): each.values if isinstance(each, _Array) else each for key, each in value.items()}


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _Kind:
    """Replaces ``numpy.dtype``; only uint8 is accepted."""

    def __init__(self, code: object, *_: object) -> None:
        if _text(code).lstrip("|") != "u1":
            raise pickle.UnpicklingError(f"it holds an array of {_text(code)}; only uint8 is accepted")

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which uint8 does not have."""


class _Array:
    """Replaces ``numpy.ndarray``."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("it holds an array without a type")
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        self.values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replaces ``_codecs.encode``, by which python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the codec {encoding!r}")
    return codecs.latin_1_encode(text)[0]


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encode_latin1,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only uint8 arrays are accepted from such files")
        return _ALLOWED[module, name]


@dataclass(frozen=True)
class Release:
    """One published form of a CIFAR."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str = ""
    """Key of the labels in a pickled batch; empty for the binary form."""
    label_bytes: int = 1
    """Label bytes a record of the binary form; the last is the label (CIFAR-100: coarse, fine)."""

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
RELEASES: dict[int, tuple[Release, Release]] = {
    10: (
        Release("cifar-10-batches-py", _BATCHES, ("test_batch",), labels="labels"),
        Release("cifar-10-batches-bin", tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",)),
    ),
    100: (
        Release("cifar-100-python", ("train",), ("test",), labels="fine_labels"),
        Release("cifar-100-binary", ("train.bin",), ("test.bin",), label_bytes=2),
    ),
}


def read_cifar(data: DataSet, source: Source) -> Original:
    """Read a release from its archive, its folder, or the folder that holds either; InputError if it is damaged."""
    path, releases = source.path, RELEASES[len(data.classes)]
    found = _read_files(data, path, releases)
    for release in releases:
        if found.keys() >= {*release.files}:
            train, test = (_split(data, release, names, found, path) for names in (release.train, release.test))
            return Original(data.info, train, test, notes={"release": release.folder})
    wanted = " or ".join(f"{', '.join(release.files)} ({release.folder})" for release in releases)
    raise InputError(
        f"'{path}' does not hold {data.title}: expected {wanted}; found {', '.join(sorted(found)) or 'none'}."
    )


def holds_cifar(data: DataSet, folder: Path) -> bool:
    """Whether ``folder`` has an official archive or an unpacked release."""
    releases = RELEASES[len(data.classes)]
    return bool(_archives(data, folder)) or any(unpacked(folder, each.folder, each.files) for each in releases)


def _archives(data: DataSet, folder: Path) -> list[Path]:
    names = [name for name in data.checksums if name.endswith(".tar.gz")]
    return [folder / name for name in names if (folder / name).is_file()]


def _read_files(data: DataSet, path: Path, releases: tuple[Release, ...]) -> dict[str, bytes]:
    """Contents by file name. Security: archives are not unpacked to disk, so no member can escape a folder."""
    if path.is_dir():
        for release in releases:
            if folder := unpacked(path, release.folder, release.files):
                with reading(folder, data.advice):
                    return {name: (folder / name).read_bytes() for name in release.files}
        if not (archives := _archives(data, path)):
            return {}
        path = archives[0]
    wanted = {name for release in releases for name in release.files}
    found: dict[str, bytes] = {}
    with reading(path, data.advice):
        data.check_md5(path.name, md5_of(path), f"'{path}'")
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if name in wanted and member.isfile() and member.size <= _LARGEST:
                    content = archive.extractfile(member)
                    found[name] = content.read() if content else b""
    return found


def _split(data: DataSet, release: Release, names: tuple[str, ...], found: dict[str, bytes], path: Path) -> Split:
    batches = []
    for name in names:
        digest = hashlib.md5(found[name], usedforsecurity=False).hexdigest()
        data.check_md5(name, digest, f"'{name}' in '{path}'")
        with reading(f"{path}: {name}", data.advice):
            batches.append((_pickled if release.labels else _binary)(found[name], release))
    pixels, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    return in_memory(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels)


def _pickled(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a python batch; ValueError or UnpicklingError if it is not one."""
    batch = load_arrays(content)
    pixels, labels = batch.get("data"), batch.get(release.labels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
        raise ValueError(f"its 'data' are not uint8 rows of {_PIXELS:,} pixels")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(each) is int for each in labels):
        raise ValueError(f"its '{release.labels}' are not a list of {len(pixels)} integers")
    return pixels, np.array(labels, np.int64)


def _binary(content: bytes, release: Release) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 3072] and int64 [n] of a binary batch; ValueError if it is cut."""
    record = release.label_bytes + _PIXELS
    if not content or len(content) % record:
        raise ValueError(f"{len(content):,} bytes are not whole records of {record:,} bytes: truncated, or damaged")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    return records[:, release.label_bytes :], records[:, release.label_bytes - 1].astype(np.int64)


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
    holds=holds_cifar,
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

CIFAR100 = DataSet(
    name="cifar100",
    title="CIFAR-100",
    classes=_CIFAR100_CLASSES,
    size=32,
    channels=3,
    train=50_000,
    test=10_000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    stats_source=PUBLISHED,
    origin="the python or the binary release of Krizhevsky; fine labels",
    read=read_cifar,
    holds=holds_cifar,
    downloads=downloads(_CIFAR_URL, {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    checksums={
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
)
