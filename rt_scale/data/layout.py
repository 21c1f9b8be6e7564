"""The byte layout of a ``.beton``, FFCV's file format, for one image, one label and one index a sample.

header | field descriptors | records | padding to a page | pages of images | allocation table, little-endian.
Written out here so that the file can be made and mapped without FFCV; an integration test holds the types
against those of the installed FFCV (ffcv/types.py, ffcv/fields/ndarray.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

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
    """Where everything lies in a file of ``samples`` images of ``image_shape`` (height, width, channels)."""

    samples: int
    image_shape: tuple[int, int, int]
    page: int
    """Bytes a page; images do not cross pages."""

    @property
    def sample_bytes(self) -> int:
        """Bytes an image."""
        return math.prod(self.image_shape)

    @property
    def per_page(self) -> int:
        """Images a page; none crosses two pages."""
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
        """The file's first bytes: version, sizes, and where the allocation table is."""
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
        """Where each sample's bytes are."""
        table = np.zeros(self.samples, ALLOCATION)
        table["sample_id"] = np.arange(self.samples)
        table["ptr"] = self.pointers()
        table["size"] = self.sample_bytes
        return table.tobytes()


def page_size(samples: int, sample_bytes: int) -> int:
    """The page for images of ``sample_bytes``: 8 MiB, less for a small set, more for huge images."""
    wanted = min(samples * sample_bytes, DEFAULT_PAGE)
    return 1 << (max(wanted, sample_bytes, MIN_PAGE) - 1).bit_length()


def shape_of(descriptors: np.ndarray) -> tuple[int, int, int] | None:
    """The image shape that three field descriptors declare, or None where they are not of our making."""
    arguments = descriptors[0]["arguments"][: ARRAY_ARGUMENTS.itemsize].tobytes()
    height, width, channels = (int(each) for each in np.frombuffer(arguments, ARRAY_ARGUMENTS)["shape"][0, :3])
    small_enough = 0 < height < 1 << 16 and 0 < width < 1 << 16 and 0 < channels < 1 << 8
    if not small_enough or height * width * channels > MAX_PAGE:
        return None
    expected = Layout(1, (height, width, channels), MIN_PAGE).descriptors()
    return (height, width, channels) if descriptors.tobytes() == expected else None
