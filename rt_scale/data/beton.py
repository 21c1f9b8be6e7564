"""The prepared file: a ``.beton`` of raw uint8 images, written at once and mapped without FFCV."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rt_scale.data import layout
from rt_scale.data.files import disk_full, sync_folder, writing
from rt_scale.data.layout import Layout
from rt_scale.data.places import prepare_command
from rt_scale.spec.errors import InputError


@dataclass(frozen=True)
class Beton:
    """An open prepared file. Its pages are mapped, not read: memory use is what the system caches."""

    path: Path
    layout: Layout
    labels: np.ndarray
    """int64 [samples]."""
    _pages: np.ndarray
    """uint8 [pages, images a page, bytes an image], the mapped file."""
    identity: tuple[int, ...]
    """Device, inode, size and time of the file: another one of this path has another."""

    @property
    def samples(self) -> int:
        """Number of images."""
        return self.layout.samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.layout.image_shape

    def __len__(self) -> int:
        return self.samples

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The images at ``index``, int [B] in any order, as uint8 [B, H, W, C] in memory.

        Raises IndexError for positions outside [0, samples).
        """
        index = np.asarray(index)
        if index.size and (index.min() < 0 or index.max() >= self.samples):
            raise IndexError(f"index outside [0, {self.samples}) of {self.path}")
        page, slot = np.divmod(index, self.layout.per_page)
        return self._pages[page, slot].reshape(len(index), *self.image_shape)

    def chunks(self) -> Iterator[np.ndarray]:
        """All images in order, uint8 [b, H, W, C], a page at a time."""
        for number, page in enumerate(self._pages):
            here = min(self.layout.per_page, self.samples - number * self.layout.per_page)
            yield np.ascontiguousarray(page[:here]).reshape(here, *self.image_shape)

    def read_all(self) -> np.ndarray:
        """All images, uint8 [samples, H, W, C], in memory."""
        images = np.empty((self.samples, *self.image_shape), np.uint8)
        start = 0
        for chunk in self.chunks():
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
        return images


def write(
    path: Path,
    images: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    image_shape: tuple[int, int, int],
    page: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write a prepared file and return the SHA-256 of its bytes.

    Pages first, header last, fsync, rename: ``path`` either is whole or is not there. Memory in use is one
    page, one chunk and 48 bytes a sample.

    Args:
        path: the file to make; ``path`` with ``.tmp`` behind it while it is made.
        images: chunks of uint8 [b, H, W, C] that together hold one image a label, in order.
        labels: int [samples], none negative.
        image_shape: (height, width, channels).
        page: bytes a page, a power of two from 2 MiB to 2 GiB; by default chosen by ``layout.page_size``.
        progress: called with the number of images written so far.

    Raises:
        InputError: nothing to write, wrong number or shape of images, a bad page, or too little disk.
        RunError: the disk filled up or failed on the way; the temporary file is removed.
    """
    labels = np.asarray(labels, np.int64)
    plan = _plan(labels, image_shape, page, path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(path):
            free = shutil.disk_usage(path.parent).free
            if free < plan.file_bytes:
                raise InputError(disk_full(path, f"{plan.file_bytes:,} bytes are needed, {free:,} are free"))
            with open(temporary, "wb") as file:
                digest = _write_into(file, plan, _blocks(images, plan, progress), labels)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return digest


def open_beton(path: Path) -> Beton:
    """Map a prepared file after checking everything that can be checked without reading the images.

    Raises InputError, naming the file, where it is absent, cut, unfinished or not of our layout.
    """
    try:
        found = path.stat()  # first of all: of a file that takes its place now, no later one has this identity
        with open(path, "rb") as file:
            plan = _read_layout(file, path, found.st_size)
            records = np.frombuffer(file.read(plan.samples * layout.RECORD.itemsize), layout.RECORD)
        if not np.array_equal(records["image"], plan.pointers()):
            raise _damaged(path, "its image pointers are not those of its layout")
        flat = np.memmap(path, np.uint8, "r", offset=plan.data_start, shape=(plan.pages, plan.page))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    used = flat[:, : plan.per_page * plan.sample_bytes]
    pages = np.lib.stride_tricks.as_strided(
        np.asarray(used),
        (plan.pages, plan.per_page, plan.sample_bytes),
        (plan.page, plan.sample_bytes, 1),
        writeable=False,
    )
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return Beton(path, plan, records["label"].astype(np.int64), pages, identity)


def verify(path: Path) -> str:
    """Check a prepared file as ``open_beton`` does, read it through and return the SHA-256 of its bytes."""
    open_beton(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plan(labels: np.ndarray, image_shape: tuple[int, int, int], page: int | None, path: Path) -> Layout:
    height, width, channels = image_shape
    if len(labels) == 0 or min(image_shape) < 1:
        raise InputError(f"Nothing to write to '{path}': {len(labels)} images of {height} x {width} x {channels}.")
    if labels.min() < 0:
        raise InputError(f"Label {labels.min()} for '{path}' is negative; labels count from 0.")
    sample_bytes = height * width * channels
    size = layout.page_size(len(labels), sample_bytes) if page is None else page
    if size & (size - 1) or not layout.MIN_PAGE <= size <= layout.MAX_PAGE or size < sample_bytes:
        raise InputError(
            f"A page of {size:,} bytes cannot hold images of {sample_bytes:,} bytes in '{path}': a page is a "
            f"power of two from {layout.MIN_PAGE:,} to {layout.MAX_PAGE:,} and at least one image."
        )
    return Layout(len(labels), image_shape, size)


def _blocks(images: Iterable[np.ndarray], plan: Layout, progress: Callable[[int], None] | None) -> Iterator[np.ndarray]:
    """Regroup chunks of images into whole pages, uint8 [page]; the space behind the last image is zero."""
    page = np.zeros(plan.page, np.uint8)
    slots = page[: plan.per_page * plan.sample_bytes].reshape(plan.per_page, plan.sample_bytes)
    filled = total = 0
    for chunk in images:
        if chunk.dtype != np.uint8 or chunk.shape[1:] != plan.image_shape:
            raise InputError(f"Images are {chunk.dtype} {chunk.shape[1:]}, expected uint8 {plan.image_shape}.")
        rows = chunk.reshape(len(chunk), plan.sample_bytes)
        while len(rows):
            take = min(len(rows), plan.per_page - filled)
            slots[filled : filled + take] = rows[:take]
            rows, filled, total = rows[take:], filled + take, total + take
            if filled == plan.per_page:
                yield page
                filled = 0
        if progress is not None:
            progress(total)
    if total != plan.samples:
        raise InputError(f"The source holds {total} images for {plan.samples} labels.")
    if filled:
        slots[filled:] = 0
        yield page


def _write_into(file: BinaryIO, plan: Layout, blocks: Iterator[np.ndarray], labels: np.ndarray) -> str:
    """Fill ``file``; the digest is of the bytes in file order although the header is written last."""
    header, head = plan.header(), plan.descriptors() + plan.records(labels)
    padding = bytes(plan.data_start - len(header) - len(head))
    digest = hashlib.sha256(header + head + padding)
    file.write(bytes(len(header)) + head + padding)
    for block in blocks:
        file.write(block.data)
        digest.update(block.data)
    table = plan.allocation_table()
    digest.update(table)
    file.write(table)
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(header)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _read_layout(file: BinaryIO, path: Path, size: int) -> Layout:
    """The layout a file declares, once it agrees with the file; ``file`` is left at the records."""
    head = file.read(layout.RECORDS_START)
    if len(head) < layout.RECORDS_START:
        raise _damaged(path, f"it has {size} bytes, too few for a header")
    header = np.frombuffer(head, layout.HEADER, count=1)[0]
    if header["version"] != layout.VERSION or header["num_fields"] != len(layout.FIELDS):
        version, fields = header["version"], header["num_fields"]
        raise _damaged(path, f"version {version} with {fields} fields, not 2 with 3; perhaps never finished")
    if header["alloc_table_ptr"] == 0:
        raise _damaged(path, "its writing was never finished")
    shape = layout.shape_of(np.frombuffer(head, layout.DESCRIPTOR, offset=layout.HEADER.itemsize))
    page, samples = int(header["page_size"]), int(header["num_samples"])
    if shape is None or samples < 1 or page & (page - 1) or page < max(layout.MIN_PAGE, math.prod(shape)):
        raise _damaged(path, f"its header is not one of ours ({samples} images, page {page})")
    plan = Layout(samples, shape, page)
    if plan.file_bytes != size or plan.table_start != header["alloc_table_ptr"]:
        raise _damaged(path, f"it has {size:,} bytes where {samples:,} images take {plan.file_bytes:,}")
    return plan


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"The prepared file '{path}' cannot be used: {reason}. Make it again with "
        f"'{prepare_command(path.parent.name, path.parent.parent)}'."
    )
