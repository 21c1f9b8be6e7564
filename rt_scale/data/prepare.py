"""From an original to its prepared files, once; and opening, listing and verifying what is prepared."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from rt_scale import __version__
from rt_scale.data.beton import Layout, page_size, write
from rt_scale.data.catalogue import BUNDLED, DATASETS, check_name, default_data_dir, prepare_command
from rt_scale.data.datasets.base import Original, Source, Split
from rt_scale.data.datasets.folder import read_folder
from rt_scale.data.datasets.tree import fingerprint
from rt_scale.data.download import Progress, data_origin, fetch, find_original
from rt_scale.data.files import check_room, writing
from rt_scale.data.prepared import (
    META,
    TEST,
    TRAIN,
    Meta,
    Prepared,
    Request,
    another,
    check_target,
    load,
    load_verified,
    lock,
    move_into_place,
)
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.stopping import StopCheck, no_check

__all__ = [
    "Prepared",
    "default_data_dir",
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
    """Make the prepared files of ``name`` in ``data_dir``, or return them where the same was done before.

    The same is: from the same source, whose files have not changed, at the same size, with the same split.

    Args:
        name: of the catalogue, or any other for a folder of one's own.
        data_dir: where prepared sets lie, one folder a name.
        source: the original; by default looked for (see ``find_original``).
        download: fetch the original where it is not found; nothing is downloaded otherwise.
        progress: called with images done and in all, during a download with bytes done and in all.
        size: resize to size x size pixels: a folder's images, or those of a set that is ``scalable``.
        split_seed: of the split of a folder that has none, 0 by default.
        replace: make it anew in any case, in place of what is prepared under that name.

    Raises:
        InputError: whatever is wrong with the request or the original, another set prepared under that name, and a
            preparation under way elsewhere.
        RunError: the disk filled up on the way. Nothing is left behind in either case.
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
    """Open a prepared set, after getting it where that needs no asking.

    A bundled set is prepared where it is not yet; other sets are fetched where RT_SCALE_DATA_ORIGIN says
    where prepared data is kept. Raises InputError with the command to type where it is not prepared, or the
    nearest names known. ``check_stop`` is called again and again while it is fetched or waited for.
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
    """Every prepared set by name, sorted; a damaged one as the error that opening it raises."""
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
    """Open a prepared set after reading it through; InputError where a checksum is not the recorded one."""
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
    """What is prepared already, if it is whole; InputError where that was from another source, or in another way."""
    try:
        prepared = load(name, data_dir)
    except InputError:
        return None
    if prepared is None:
        return None
    before = prepared.request
    if size == prepared.info.size and before.size is None:
        size = None  # the size that they have without scaling
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
    """Why a set that is not in the catalogue cannot be made without saying from what."""
    command = prepare_command(name, data_dir)
    if load(name, data_dir) is not None:
        return InputError(f"To prepare '{name}' anew, say where its images are: '{command} --replace'.")
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
    """Build in a hidden folder, then move into place; the caller holds the lock."""
    target, workplace = data_dir / name, data_dir / f".{name}.tmp"
    check_target(target)
    found = source
    if source is None and name not in BUNDLED:
        found = find_original(DATASETS[name], data_dir, download, progress)
    request = Request(
        source=None if source is None else str(source.resolve()),
        fingerprint="" if found is None else fingerprint(found),
        size=size,
        split_seed=split_seed,
    )
    try:
        with writing(workplace):
            shutil.rmtree(workplace, ignore_errors=True)  # a preparation that was killed
            workplace.mkdir()
        with ExitStack() as stack:
            given = Source(found or workplace, workplace, stack, size, split_seed)
            data = DATASETS.get(name)
            original = read_folder(name, given) if data is None else data.read(data, given)
            original.check()
            meta = write_splits(original, request, workplace, progress)
        move_into_place(meta, workplace, target)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return load(name, data_dir) or open_prepared(name, data_dir)


def write_splits(original: Original, request: Request, folder: Path, progress: Progress | None) -> Meta:
    """Write both prepared files of ``original`` into ``folder``; what ``meta.json`` is to say."""
    info = original.info
    shape = (info.size, info.size, info.channels)
    sizes = [len(split.labels) for split in (original.train, original.test)]
    with writing(folder):  # room for both files, before any is begun
        check_room(
            folder / TRAIN, sum(Layout(each, shape, page_size(each, math.prod(shape))).file_bytes for each in sizes)
        )
    histogram = np.zeros((info.channels, 256), np.int64)
    before, sha256 = 0, {}
    for file, split in ((TRAIN, original.train), (TEST, original.test)):
        tapped = original.measure and file == TRAIN
        report = _reporter(progress, before, sum(sizes))
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
