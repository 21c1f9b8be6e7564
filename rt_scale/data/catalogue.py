"""The data sets known by name: classes, sizes, statistics with their source, originals with checksums."""

from __future__ import annotations

from rt_scale.data.datasets.cifar import CIFAR10, CIFAR100
from rt_scale.data.datasets.cifar5m import CIFAR5M
from rt_scale.data.datasets.grey import DIGITS, FASHION_MNIST, MNIST
from rt_scale.data.entries.photographs import STL10, STL10_UNLABELED, TINY_IMAGENET
from rt_scale.data.info import DataInfo, Download

__all__ = ["DATASETS", "DataInfo", "Download"]

DATASETS: dict[str, DataInfo] = {
    info.name: info
    for info in (
        DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR5M, CIFAR100, STL10, STL10_UNLABELED, TINY_IMAGENET,
    )
}  # fmt: skip
"""Every data set known by name; a folder of the user's own images gets its DataInfo when it is prepared."""
