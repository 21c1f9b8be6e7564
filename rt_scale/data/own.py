"""Data sets of users: a function that gives images and labels, read once and then kept as any prepared set."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rt_scale.data.datasets.base import CHUNK, Original, Split
from rt_scale.data.download import Progress
from rt_scale.data.meta import DataInfo, Request
from rt_scale.data.prepare import make_prepared
from rt_scale.data.prepared import Prepared, load, lock
from rt_scale.plugins import check_arguments
from rt_scale.plugins import load as load_plugin
from rt_scale.spec.data import DataSpec
from rt_scale.spec.errors import InputError, cut, shown
from rt_scale.spec.stopping import StopCheck, no_check


def prepare_own(
    data: DataSpec, data_dir: Path, progress: Progress | None = None, check_stop: StopCheck = no_check
) -> Prepared:
    """Prepare the images of a plugin, or return the prepared set.

    The plugin gives training images, their labels, test images and their labels. Images are uint8 [N, H, W, C] or
    [N, H, W], H = W, or a list of PIL images of one such shape; labels are whole numbers from 0, or names of classes.

    InputError: it cannot be imported or called, or gives anything else.
    """
    assert data.plugin is not None
    if (prepared := load(data.name, data_dir)) is not None:
        return prepared
    with lock(data.name, data_dir, wait=True, check_stop=check_stop):
        if (prepared := load(data.name, data_dir)) is not None:
            return prepared
        request = Request(source=data.plugin, fingerprint=data.source or "", size=None, split_seed=0)
        return make_prepared(data.name, data_dir, request, lambda given: read_own(data), progress)


def read_own(data: DataSpec) -> Original:
    """The images that a plugin gives; InputError as :func:`prepare_own`."""
    assert data.plugin is not None
    what, function = f"The data set '{data.plugin}'", load_plugin(data.plugin, data.source)
    check_arguments(what, function, data.arguments, ())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a command's output may be JSON
            given = function(**data.arguments)
    except Exception as error:  # of a user's code
        raise InputError(f"{what} cannot be read: {type(error).__name__}: {cut(str(error), 300)}.") from error
    if not isinstance(given, tuple | list) or len(given) != 4:
        number = f"{len(given)} values" if isinstance(given, tuple | list) else shown(given)
        raise InputError(f"{what} gives {number}: it must give train images, train labels, test images, test labels.")
    classes, numbers = _classes(what, given[1], given[3])
    (train, shape), (test, other) = (_split(what, given[place], numbers[place // 2]) for place in (0, 2))
    if shape != other:
        raise InputError(f"{what} gives training images of {list(shape)} and test images of {list(other)}.")
    title = data.plugin.partition(":")[2]
    size, _, channels = shape
    info = DataInfo(
        name=data.name, title=title, classes=classes, size=size, channels=channels,
        train=len(numbers[0]), test=len(numbers[1]), mean=(), std=(),
        stats_source="measured on the training images", origin=f"the plugin {data.plugin}",
    )  # fmt: skip
    return Original(info, train, test, measure=True)


def _classes(what: str, *labels: Any) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of the classes, and the labels as int64."""
    arrays = [np.asarray(each) for each in labels]
    if any(each.ndim != 1 or not len(each) or each.dtype.kind not in "iuU" for each in arrays):
        shapes = " and ".join(f"{each.dtype} {list(each.shape)}" for each in arrays)
        raise InputError(f"{what} gives labels {shapes}: they must be whole numbers from 0 or names, one an image.")
    if any(each.dtype.kind == "U" for each in arrays):
        names, inverse = np.unique(np.concatenate(arrays), return_inverse=True)
        return tuple(map(str, names)), np.split(inverse.astype(np.int64), [len(arrays[0])])
    top = max(int(each.max()) for each in arrays)
    return tuple(str(number) for number in range(top + 1)), [each.astype(np.int64) for each in arrays]


def _split(what: str, images: Any, labels: np.ndarray) -> tuple[Split, tuple[int, int, int]]:
    """The images as a split, and the shape [H, W, C] of each."""
    if len(images) != len(labels):
        raise InputError(f"{what} gives {len(images):,} images and {len(labels):,} labels for them.")
    first = _array(images[:1])
    shape = first.shape[1:]
    if first.dtype != np.uint8 or len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
        raise InputError(
            f"{what} gives images of {first.dtype} {list(shape)}: they must be uint8 [H, W, C] with H = W and C 1 "
            "(grey) or 3 (colour)."
        )

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, len(images), CHUNK):
            chunk = _array(images[start : start + CHUNK])
            if chunk.dtype != np.uint8 or chunk.shape[1:] != shape:
                raise InputError(f"{what} gives images of {list(shape)} and of {chunk.dtype} {list(chunk.shape[1:])}.")
            yield np.ascontiguousarray(chunk)

    return Split(labels, chunks), (shape[0], shape[1], shape[2])


def _array(images: Sequence[Image.Image] | np.ndarray) -> np.ndarray:
    """Images [B, H, W, C]; of PIL images of several shapes an array of objects."""
    try:
        found = np.stack([np.asarray(each) for each in images])
    except ValueError:
        return np.asarray([None])
    return found[..., None] if found.ndim == 3 else found
