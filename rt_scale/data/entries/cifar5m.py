"""CIFAR-5M: about six million images sampled from a diffusion model of CIFAR-10."""

from __future__ import annotations

from rt_scale.data.entries.cifar import CIFAR10
from rt_scale.data.info import DataInfo, downloads

_URL = "https://storage.googleapis.com/gresearch/cifar5m/"
_IMAGES_A_PART = 1_000_448

CIFAR5M = DataInfo(
    name="cifar5m",
    title="CIFAR-5M",
    classes=CIFAR10.classes,
    size=32,
    channels=3,
    train=5 * _IMAGES_A_PART,
    test=_IMAGES_A_PART,
    # Values in circulation (0.4555, 0.4362, 0.3415) have far less blue than CIFAR-10, and no stated source.
    mean=(),
    std=(),
    stats_source="measured on the training images of the parts that it was prepared from",
    origin="the six npz parts of Nakkiran, Neyshabur and Sedghi (arXiv 2010.08127); part0 to part4 to train, "
    "part5 held out",
    reader="npz",
    downloads=downloads(_URL, {f"part{number}.npz": "" for number in range(6)}),
)
