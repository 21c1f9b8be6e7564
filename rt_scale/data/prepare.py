"""Preparing data sets from their originals, and opening, listing and verifying prepared ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from rt_scale import __version__
from rt_scale.data.beton import Layout, page_size, write
from rt_scale.data.catalogue import BUNDLED, DATASETS, prepare_command
from rt_scale.data.datasets.base import Original, Source, Split
from rt_scale.data.datasets.folder import read_folder
from rt_scale.data.datasets.tree import fingerprint
from rt_scale.data.download import Progress, data_origin, fetch, find_original
from rt_scale.data.files import check_room, writing
from rt_scale.data.meta import META, TEST, TRAIN, Meta, Request, check_name
from rt_scale.data.prepared import (
    Prepared,
    another,
    check_target,
    load,
    load_verified,
    lock,
    move_into_place,
    workplace,
)
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.stopping import StopCheck, no_check

__all__ = [
    "Prepared",
    "list_prepared",
    "open_prepared",
    "prepare",
    "verify_prepared",
    "write_splits",
]

_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


def prepare(
    name: str,
    data_dir: Path,
    source: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    *,
    size: int | None = None,
    split_seed: int | None = None,
    replace: bool = False,
) -> Prepared:
    """Prepare the data set ``name`` in ``data_dir``, or return it if the same request was already fulfilled.

    The same request has the same unchanged source, the same size and the same split.

    Args:
        name: of the catalogue, or a new one for a folder of images.
        source: the original; by default that of ``find_original``.
        download: download an original that is not found.
        progress: called with images (while downloading: bytes) done and in all.
        size: resize to size x size pixels: a folder's images, or those of a set that is ``scalable``.
        split_seed: seed of the split of a folder without train/ and test/, 0 by default.
        replace: prepare again, and replace the existing set.

    Raises:
        InputError: a wrong request or original, a different set of that name, or another process prepares it.
        RunError: the disk filled up.
    """
    _check_request(name, source, download, size, split_seed)
    if not replace and (done := _done(name, data_dir, source, size, split_seed)) is not None:
        return done
    if source is None and name not in DATASETS:
        raise _no_source(name, data_dir)
    with lock(name, data_dir, wait=False):
        if not replace and (done := _done(name, data_dir, source, size, split_seed)) is not None:
            return done
        return _make(name, data_dir, source, download, progress, size, split_seed or 0)


def open_prepared(name: str, data_dir: Path, check_stop: StopCheck = no_check) -> Prepared:
    """Open a prepared set; prepare a bundled one first, and fetch any other from RT_SCALE_DATA_ORIGIN if that is set.

    Raises InputError, with the command that prepares it or the nearest known names, if it is not prepared.
    ``check_stop`` is called repeatedly while fetching or waiting.
    """
    check_name(name)
    if (prepared := load(name, data_dir)) is not None:
        return prepared
    if name in BUNDLED:
        with lock(name, data_dir, wait=True, check_stop=check_stop):
            return load(name, data_dir) or _make(name, data_dir)
    origin = data_origin()
    if origin and (prepared := fetch(name, data_dir, origin, check_stop)) is not None:
        return prepared
    command = prepare_command(name, data_dir)
    if name in DATASETS:
        places = f"in '{data_dir}', nor in '{origin}' (RT_SCALE_DATA_ORIGIN)" if origin else f"in '{data_dir}'"
        raise InputError(f"The data set '{name}' is not prepared {places}. Prepare it with '{command}'.")
    known = {*DATASETS, *list_prepared(data_dir)}
    raise unknown_name("data set", name, known, hint=f"A folder of your own images becomes one with '{command}'.")


def list_prepared(data_dir: Path) -> dict[str, Prepared | InputError]:
    """All prepared sets by name, sorted; for a damaged one the error of opening it."""
    found: dict[str, Prepared | InputError] = {}
    for name in sorted(meta.parent.name for meta in data_dir.glob(f"*/{META}")):
        try:
            prepared: Prepared | InputError | None = load(check_name(name), data_dir)
        except InputError as error:
            prepared = error
        if prepared is not None:
            found[name] = prepared
    return found


def verify_prepared(name: str, data_dir: Path) -> Prepared:
    """Open a prepared set after verifying its checksums; InputError if one differs."""
    return load_verified(check_name(name), data_dir) or open_prepared(name, data_dir)


def _check_request(name: str, source: Path | None, download: bool, size: int | None, split_seed: int | None) -> None:
    check_name(name)
    data = DATASETS.get(name)
    if name == GAUSSIAN:
        raise InputError(f"'{GAUSSIAN}' names inputs that are drawn, not prepared: give the data set another name.")
    if source is not None and download:
        raise InputError("Both --from and --download were given: say where the original is, or let it be downloaded.")
    if source is not None and not source.exists():
        raise InputError(f"'{source}', given as the original of '{name}', does not exist. Check the path.")
    if data is not None and split_seed is not None:
        raise InputError(f"A split seed is for folders of images; '{name}' has its own split. Leave it out.")
    if data is not None and size is not None and not data.scalable:
        scalable = ", ".join(each.name for each in DATASETS.values() if each.scalable)
        raise InputError(
            f"--size is for folders of images and for {scalable}; '{name}' has its own size. A run resizes on the "
            "device: data.size in its spec."
        )
    if name in BUNDLED and (source is not None or download):
        raise InputError(f"The {name} come with an installed library: leave out --from and --download.")


def _done(name: str, data_dir: Path, source: Path | None, size: int | None, split_seed: int | None) -> Prepared | None:
    """The existing set if it is undamaged; InputError if its request was a different one."""
    try:
        prepared = load(name, data_dir)
    except InputError:
        return None
    if prepared is None:
        return None
    before = prepared.request
    if size == prepared.info.size and before.size is None:
        size = None  # the images' size without resizing
    asked = Request(
        source=before.source if source is None else str(source.resolve()),
        fingerprint=before.fingerprint if source is None else fingerprint(source),
        size=before.size if source is None and size is None else size,
        split_seed=before.split_seed if source is None and split_seed is None else split_seed or 0,
    )
    if asked != before:
        raise another(prepared, asked, "" if source or name in DATASETS else prepare_command(name, data_dir))
    return prepared


def _no_source(name: str, data_dir: Path) -> InputError:
    command = prepare_command(name, data_dir)
    if load(name, data_dir) is not None:
        return InputError(f"To prepare '{name}' again, give the folder of its images: '{command} --replace'.")
    hint = f"A folder of your own images becomes a data set with '{command}'."
    return unknown_name("data set", name, DATASETS, hint=hint)


def _make(
    name: str,
    data_dir: Path,
    source: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    size: int | None = None,
    split_seed: int = 0,
) -> Prepared:
    """Find the original and prepare it; the caller holds the lock."""
    check_target(data_dir / name)
    found = source
    if source is None and name not in BUNDLED:
        found = find_original(DATASETS[name], data_dir, download, progress)
    request = Request(
        source=None if source is None else str(source.resolve()),
        fingerprint="" if found is None else fingerprint(found),
        size=size,
        split_seed=split_seed,
    )

    def read(given: Source) -> Original:
        given = dataclasses.replace(given, path=found or given.path)
        data = DATASETS.get(name)
        return read_folder(name, given) if data is None else data.read(data, given)

    return make_prepared(name, data_dir, request, read, progress)


def make_prepared(
    name: str, data_dir: Path, request: Request, read: Callable[[Source], Original], progress: Progress | None
) -> Prepared:
    """Prepare what ``read`` gives in a hidden folder, then move the files into place; the caller holds the lock."""
    check_target(data_dir / name)
    with workplace(data_dir / name) as folder, ExitStack() as stack:
        original = read(Source(folder, folder, stack, request.size, request.split_seed))
        original.check()
        move_into_place(write_splits(original, request, folder, progress), folder, data_dir / name)
    return load(name, data_dir) or open_prepared(name, data_dir)


def write_splits(original: Original, request: Request, folder: Path, progress: Progress | None) -> Meta:
    """Write both prepared files of ``original`` into ``folder``; the contents of their ``meta.json``."""
    info = original.info
    shape = (info.size, info.size, info.channels)
    sizes = [len(split.labels) for split in (original.train, original.test)]
    with writing(folder):  # for both files, before the first is written
        check_room(
            folder / TRAIN, sum(Layout(each, shape, page_size(each, math.prod(shape))).file_bytes for each in sizes)
        )
    histogram = np.zeros((info.channels, 256), np.int64)
    before, sha256 = 0, {}
    for file, split in ((TRAIN, original.train), (TEST, original.test)):

        def report(done: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, sum(sizes))

        images = _counted(split, histogram) if original.measure and file == TRAIN else split.chunks()
        sha256[file] = write(folder / file, images, split.labels, image_shape=shape, progress=report)
        before += len(split.labels)
    notes = {**original.notes, **original.noticed()}
    if original.measure:
        mean, std = _statistics(histogram, info.name)
        info = dataclasses.replace(info, mean=mean, std=std)
        if constant := [_CHANNELS[info.channels][channel] for channel in np.flatnonzero(_is_constant(histogram))]:
            notes["constant"] = f"{', '.join(constant)}: the same in all training images, so its deviation counts as 1"
    return Meta(info=info, request=request, sha256=sha256, notes=notes, version=__version__)


def _counted(split: Split, histogram: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images and add up their pixel values in ``histogram``, int64 [channels, 256]."""
    mode = "L" if len(histogram) == 1 else "RGB"
    for chunk in split.chunks():
        count, height, width, _ = chunk.shape
        pixels = np.ascontiguousarray(chunk)
        # As one tall image: Pillow counts four times as fast as numpy, which widens every byte first.
        tall = Image.frombuffer(mode, (width, count * height), pixels, "raw", mode, 0, 1)
        histogram += np.reshape(tall.histogram(), histogram.shape)
        yield chunk


def _statistics(histogram: np.ndarray, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1]; the deviation of a constant channel is 1."""
    if (constant := _is_constant(histogram)).all():
        raise InputError(f"All training images of '{name}' are of one colour: there is nothing to learn from them.")
    value = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ value
    std = np.sqrt((share * (value - mean[:, None]) ** 2).sum(axis=1))
    std[constant] = 1
    return tuple(mean.tolist()), tuple(std.tolist())


def _is_constant(histogram: np.ndarray) -> np.ndarray:
    """Which channels have only one value, bool [channels]."""
    return np.asarray(np.count_nonzero(histogram, axis=1) == 1)
