"""The built-in data sets."""

from __future__ import annotations

import shlex
from pathlib import Path

from rt_scale.data.datasets.base import DataSet
from rt_scale.data.datasets.cifar import CIFAR10, CIFAR100
from rt_scale.data.datasets.cifar5m import CIFAR5M
from rt_scale.data.datasets.grey import DIGITS, FASHION_MNIST, MNIST
from rt_scale.data.datasets.stl10 import STL10, STL10_UNLABELED
from rt_scale.data.datasets.tiny_imagenet import TINY_IMAGENET
from rt_scale.data.meta import default_data_dir

DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR5M, CIFAR100, STL10, STL10_UNLABELED, TINY_IMAGENET,
    )
}  # fmt: skip
BUNDLED = frozenset(name for name, data in DATASETS.items() if not data.releases)
"""Sets whose original comes with an installed library; they are prepared automatically."""


def prepare_command(name: str, data_dir: Path) -> str:
    """The command that prepares ``name`` in ``data_dir``."""
    words = ["rt-scale", "data", "prepare", name]
    if name not in DATASETS:
        words += ["--from", "FOLDER"]
    if data_dir != default_data_dir():
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)
