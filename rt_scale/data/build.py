"""Writing the prepared files of an original, and moving them into place."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from rt_scale import __version__
from rt_scale.data.beton import Layout, page_size, write
from rt_scale.data.datasets.original import Original, Split
from rt_scale.data.files import disk_full, writing
from rt_scale.data.originals import Progress
from rt_scale.data.prepared import META, TEST, TRAIN, Meta, Request
from rt_scale.spec.errors import InputError
from rt_scale.system.files import TEMPORARY, replace_file, sync_folder

_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


def write_splits(original: Original, request: Request, folder: Path, progress: Progress | None) -> Meta:
    """Write both prepared files of ``original`` into ``folder``; what ``meta.json`` is to say."""
    info = original.info
    shape = (info.size, info.size, info.channels)
    _check_room(original, folder)
    histogram = np.zeros((info.channels, 256), np.int64)
    before, sha256 = 0, {}
    for file, split in ((TRAIN, original.train), (TEST, original.test)):
        tapped = original.measure and file == TRAIN
        report = _reporter(progress, before, info.train + info.test)
        with contextlib.closing(_ahead(_counted(split, histogram) if tapped else split.chunks())) as images:
            sha256[file] = write(folder / file, images, split.labels, image_shape=shape, progress=report)
        before += len(split.labels)
    notes = {**original.notes, **original.noticed()}
    if original.measure:
        mean, std = _statistics(histogram, info.name)
        info = dataclasses.replace(info, mean=mean, std=std)
        if constant := [_CHANNELS[info.channels][channel] for channel in np.flatnonzero(_is_constant(histogram))]:
            notes["constant"] = f"{', '.join(constant)}: the same in all training images, so its deviation counts as 1"
    return Meta(info=info, request=request, sha256=sha256, notes=notes, version=__version__)


def _check_room(original: Original, folder: Path) -> None:
    """InputError where the disk has no room for both files, before any is begun."""
    shape = (original.info.size, original.info.size, original.info.channels)
    needed = 0
    for split in (original.train, original.test):
        samples = len(split.labels)
        needed += Layout(samples, shape, page_size(samples, math.prod(shape))).file_bytes
    with writing(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(disk_full(folder, f"{needed:,} bytes are needed, {free:,} are free"))


def _reporter(progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(before + done, total)


def _counted(split: Split, histogram: np.ndarray) -> Iterator[np.ndarray]:
    """Pass the images on, counting pixel values into int64 [channels, 256]."""
    mode = "L" if len(histogram) == 1 else "RGB"
    for chunk in split.chunks():
        count, height, width, _ = chunk.shape
        pixels = np.ascontiguousarray(chunk)
        # As one tall image, because Pillow counts four times as fast as numpy, which widens every byte first.
        tall = Image.frombuffer(mode, (width, count * height), pixels, "raw", mode, 0, 1)
        histogram += np.reshape(tall.histogram(), histogram.shape)
        yield chunk


def _ahead(chunks: Iterator[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """Pass the chunks on, each read, unpacked and counted in a thread while the one before is hashed and written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield chunk


def _statistics(histogram: np.ndarray, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], exact from the counts of their values.

    The deviation of a channel that is the same everywhere is given as 1, so that one can divide by it.
    """
    if (constant := _is_constant(histogram)).all():
        raise InputError(f"All training images of '{name}' are of one colour: there is nothing to learn from them.")
    value = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ value
    std = np.sqrt((share * (value - mean[:, None]) ** 2).sum(axis=1))
    std[constant] = 1
    return tuple(mean.tolist()), tuple(std.tolist())


def _is_constant(histogram: np.ndarray) -> np.ndarray:
    """Which channels have one value alone, bool [channels]."""
    return np.asarray(np.count_nonzero(histogram, axis=1) == 1)


def move_into_place(meta: Meta, workplace: Path, target: Path) -> None:
    """Put the files in place; meta.json goes first and comes last, so that half a set is never opened."""
    with writing(target):
        target.mkdir(exist_ok=True)
        (target / META).unlink(missing_ok=True)
        for file in (TRAIN, TEST):
            os.replace(workplace / file, target / file)
        replace_file(target / META, json.dumps(meta.to_json(), indent=1).encode())
        sync_folder(target.parent)


def check_target(target: Path) -> None:
    """Never write into a folder of somebody else's."""
    with writing(target):
        names = sorted(each.name for each in target.iterdir()) if target.exists() else []
    if foreign := [name for name in names if name not in (META, TRAIN, TEST) and not name.startswith(TEMPORARY)]:
        raise InputError(
            f"'{target}' exists and holds something else than prepared data ('{foreign[0]}'). Choose "
            "another name for the data set, or another folder with --data-dir."
        )
