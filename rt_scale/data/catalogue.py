"""The built-in data sets, and the folder of prepared data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from rt_scale.data.datasets.base import DataSet
from rt_scale.data.datasets.cifar import CIFAR10, CIFAR100
from rt_scale.data.datasets.cifar5m import CIFAR5M
from rt_scale.data.datasets.grey import DIGITS, FASHION_MNIST, MNIST
from rt_scale.data.datasets.stl10 import STL10, STL10_UNLABELED
from rt_scale.data.datasets.tiny_imagenet import TINY_IMAGENET
from rt_scale.spec.errors import InputError, shown
from rt_scale.system.paths import cache_folder, path_from, user_path

DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR5M, CIFAR100, STL10, STL10_UNLABELED, TINY_IMAGENET,
    )
}  # fmt: skip
BUNDLED = frozenset(name for name, data in DATASETS.items() if not data.releases)
"""Sets whose original comes with an installed library; they are prepared automatically."""
ORIGINALS = "originals"
"""Folder of originals below the data folder, for downloads too."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def default_data_dir(given: Path | None = None) -> Path:
    """The folder of prepared data: ``given`` (--data-dir), else RT_SCALE_DATA, else the user cache."""
    if given is not None:
        return user_path(str(given), "--data-dir")
    return path_from("RT_SCALE_DATA") or cache_folder("rt-scale", "--data-dir or RT_SCALE_DATA", may_hold=True)


def prepare_command(name: str, data_dir: Path) -> str:
    """The command that prepares ``name`` in ``data_dir``."""
    words = ["rt-scale", "data", "prepare", name]
    if name not in DATASETS:
        words += ["--from", "FOLDER"]
    if data_dir != default_data_dir():
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def check_name(name: str) -> str:
    """``name`` if it is a valid name of a data set; InputError otherwise."""
    if not _NAME.fullmatch(name) or name == ORIGINALS:
        raise InputError(
            f"{shown(name)} cannot name a data set: a name has letters, digits, '-' and '_', begins with a letter "
            f"or digit, has at most 64 characters and is not '{ORIGINALS}'."
        )
    return name
