"""The prepared file: raw uint8 images in FFCV's ``.beton`` format, written and mapped without FFCV.

Little-endian: header | field descriptors | records | padding to a page | pages of images | allocation table.
An integration test compares the types with those of FFCV (ffcv/types.py, ffcv/fields/ndarray.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rt_scale.data.catalogue import prepare_command
from rt_scale.data.files import check_room, writing
from rt_scale.spec.errors import InputError
from rt_scale.system.files import remove, sync_folder, temporary_name

VERSION = 2
FIELDS = ("image", "label", "index")
MIN_PAGE = 1 << 21
DEFAULT_PAGE = 1 << 23
MAX_PAGE = 1 << 31

HEADER = np.dtype(
    [
        *(("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4")),
        *(("num_samples", "<u8"), ("alloc_table_ptr", "<u8")),
    ],
    align=True,
)
DESCRIPTOR = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", (1024,))], align=True)
ARRAY_ARGUMENTS = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
RECORD = np.dtype([("image", "<u8"), ("label", "<i8"), ("index", "<i8")], align=True)
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
TYPE_ARRAY = 4
TYPE_INT = 1

RECORDS_START = HEADER.itemsize + len(FIELDS) * DESCRIPTOR.itemsize


@dataclass(frozen=True)
class Layout:
    """The positions of all parts of a file of ``samples`` images of ``image_shape`` (height, width, channels)."""

    samples: int
    image_shape: tuple[int, int, int]
    page: int
    """Bytes a page."""

    @property
    def sample_bytes(self) -> int:
        """Bytes an image."""
        return math.prod(self.image_shape)

    @property
    def per_page(self) -> int:
        """Images a page; no image crosses pages."""
        return self.page // self.sample_bytes

    @property
    def pages(self) -> int:
        """Pages of images."""
        return -(-self.samples // self.per_page)

    @property
    def data_start(self) -> int:
        """Byte offset of the first page."""
        end = RECORDS_START + self.samples * RECORD.itemsize
        return -(-end // self.page) * self.page

    @property
    def table_start(self) -> int:
        """Byte offset of the allocation table."""
        return self.data_start + self.pages * self.page

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        return self.table_start + self.samples * ALLOCATION.itemsize

    def pointers(self) -> np.ndarray:
        """Byte offset of every image, uint64 [samples]."""
        position = np.arange(self.samples, dtype=np.uint64)
        page, slot = np.divmod(position, np.uint64(self.per_page))
        return np.uint64(self.data_start) + page * np.uint64(self.page) + slot * np.uint64(self.sample_bytes)

    def header(self) -> bytes:
        """The first bytes of the file."""
        header = np.zeros(1, HEADER)
        header["version"] = VERSION
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self.page
        header["num_samples"] = self.samples
        header["alloc_table_ptr"] = self.table_start
        return header.tobytes()

    def descriptors(self) -> bytes:
        """The three field descriptors: an array field, then two integer fields."""
        fields = np.zeros(len(FIELDS), DESCRIPTOR)
        for position, name in enumerate(FIELDS):
            fields[position]["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        fields["type_id"] = [TYPE_ARRAY, TYPE_INT, TYPE_INT]
        kind = json.dumps(np.dtype(np.uint8).descr).encode()
        arguments = np.zeros(1, ARRAY_ARGUMENTS)
        arguments["shape"][0, :3] = self.image_shape
        arguments["type_length"] = len(kind)
        encoded = np.frombuffer(arguments.tobytes() + kind, np.uint8)
        fields[0]["arguments"][: len(encoded)] = encoded
        return fields.tobytes()

    def records(self, labels: np.ndarray) -> bytes:
        """The metadata table, one record a sample, for int64 ``labels`` [samples]."""
        records = np.zeros(self.samples, RECORD)
        records["image"] = self.pointers()
        records["label"] = labels
        records["index"] = np.arange(self.samples)
        return records.tobytes()

    def allocation_table(self) -> bytes:
        """The position and size of each sample."""
        table = np.zeros(self.samples, ALLOCATION)
        table["sample_id"] = np.arange(self.samples)
        table["ptr"] = self.pointers()
        table["size"] = self.sample_bytes
        return table.tobytes()


def page_size(samples: int, sample_bytes: int) -> int:
    """Bytes a page: 8 MiB, less for a small set, more for huge images."""
    wanted = min(samples * sample_bytes, DEFAULT_PAGE)
    return 1 << (max(wanted, sample_bytes, MIN_PAGE) - 1).bit_length()


@dataclass(frozen=True)
class Beton:
    """An open prepared file, memory-mapped."""

    path: Path
    layout: Layout
    labels: np.ndarray
    """int64 [samples]."""
    _pages: np.ndarray
    """uint8 [pages, images a page, bytes an image], the mapped file."""
    identity: tuple[int, ...]
    """See :func:`identity_of`."""

    @property
    def samples(self) -> int:
        """Number of images."""
        return self.layout.samples

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.layout.image_shape

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The images at ``index``, int [B], as uint8 [B, H, W, C]; IndexError for positions outside [0, samples)."""
        index = np.asarray(index)
        if index.size and (index.min() < 0 or index.max() >= self.samples):
            raise IndexError(f"index outside [0, {self.samples}) of {self.path}")
        page, slot = np.divmod(index, self.layout.per_page)
        return self._pages[page, slot].reshape(len(index), *self.image_shape)

    def read_all(self) -> np.ndarray:
        """All images, uint8 [samples, H, W, C], in memory."""
        images = np.empty((self.samples, *self.image_shape), np.uint8)
        per_page = self.layout.per_page
        filled = [page[: self.samples - number * per_page] for number, page in enumerate(self._pages)]
        np.concatenate(filled, out=images.reshape(self.samples, -1))
        return images


def write(
    path: Path,
    images: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    image_shape: tuple[int, int, int],
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write a prepared file atomically and return the SHA-256 of its bytes.

    Uses memory for one page, one chunk and 48 bytes a sample.

    Args:
        images: chunks of uint8 [b, H, W, C], in all one image a label, in order.
        labels: int [samples], none negative.
        image_shape: (height, width, channels).
        progress: called with the number of images written so far.

    Raises:
        InputError: no images, wrong number or shape of images, or too little disk.
        RunError: the disk filled up; the temporary file is removed.
    """
    labels = np.asarray(labels, np.int64)
    plan = _plan(labels, image_shape, path)
    temporary = temporary_name(path)
    try:
        with writing(path):
            check_room(path, plan.file_bytes)
            with open(temporary, "wb") as file:
                digest = _write_into(file, plan, _blocks(images, plan, progress), labels)
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        remove(temporary)
    return digest


def identity_of(path: Path) -> tuple[int, ...]:
    """Device, inode, size and modification time: a later file of the same path has another identity."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_beton(path: Path) -> Beton:
    """Map a prepared file after all checks that need no images; InputError if it is absent or damaged."""
    try:
        # Before it is opened: if the file is replaced now, its identity is outdated, never wrong.
        identity = identity_of(path)
        with open(path, "rb") as file:
            plan = _read_layout(file, path, identity[2])
            records = np.frombuffer(file.read(plan.samples * RECORD.itemsize), RECORD)
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
    return Beton(path, plan, records["label"].astype(np.int64), pages, identity)


def verify(path: Path) -> str:
    """Check a prepared file as ``open_beton`` does and return the SHA-256 of its bytes."""
    open_beton(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plan(labels: np.ndarray, image_shape: tuple[int, int, int], path: Path) -> Layout:
    height, width, channels = image_shape
    if len(labels) == 0 or min(image_shape) < 1:
        raise InputError(f"Nothing to write to '{path}': {len(labels)} images of {height} x {width} x {channels}.")
    if labels.min() < 0:
        raise InputError(f"Label {labels.min()} for '{path}' is negative; labels count from 0.")
    return Layout(len(labels), image_shape, page_size(len(labels), math.prod(image_shape)))


def _blocks(images: Iterable[np.ndarray], plan: Layout, progress: Callable[[int], None] | None) -> Iterator[np.ndarray]:
    """Regroup chunks of images into whole pages, uint8 [page], the last padded with zeros."""
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
    """Fill ``file``, the header last; the SHA-256 of its bytes in file order."""
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
    for last in (b"", header):  # the header follows once the rest is on disk
        file.seek(0)
        file.write(last)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _read_layout(file: BinaryIO, path: Path, size: int) -> Layout:
    """The layout that a file declares, checked against its size; leaves ``file`` at the records."""
    head = file.read(RECORDS_START)
    if len(head) == RECORDS_START:
        header = np.frombuffer(head, HEADER, count=1)[0]
        arguments = np.frombuffer(head, DESCRIPTOR, offset=HEADER.itemsize)["arguments"][0, : ARRAY_ARGUMENTS.itemsize]
        height, width, channels = arguments.view(ARRAY_ARGUMENTS)["shape"][0, :3].tolist()
        plan = Layout(int(header["num_samples"]), (height, width, channels), int(header["page_size"]))
        sound = plan.samples > 0 and 0 < plan.sample_bytes <= plan.page <= MAX_PAGE
        if sound and head == plan.header() + plan.descriptors() and size == plan.file_bytes:
            return plan
    raise _damaged(path, f"its {size:,} bytes do not begin as rt-scale writes it: it is cut, or was never finished")


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"The prepared file '{path}' cannot be used: {reason}. Make it again with "
        f"'{prepare_command(path.parent.name, path.parent.parent)}'."
    )
