"""The installed FFCV reads our prepared files, and its types are those that we wrote down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ffcv import types
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.ndarray import NDArrayArgsType, NDArrayDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.writer import MAX_PAGE_SIZE, MIN_PAGE_SIZE

from rt_scale.data import beton
from rt_scale.data.beton import open_beton, write


def test_our_types_are_ffcvs() -> None:
    assert types.CURRENT_VERSION == beton.VERSION
    assert types.HeaderType == beton.HEADER
    assert types.FieldDescType == beton.DESCRIPTOR
    assert types.ALLOC_TABLE_TYPE == beton.ALLOCATION
    assert NDArrayArgsType == beton.ARRAY_ARGUMENTS
    assert types.TYPE_ID_HANDLER[beton.TYPE_ARRAY] is NDArrayField
    assert types.TYPE_ID_HANDLER[beton.TYPE_INT] is IntField
    assert beton.MIN_PAGE == MIN_PAGE_SIZE
    assert beton.MAX_PAGE < MAX_PAGE_SIZE
    handlers = [NDArrayField(np.dtype(np.uint8), (4, 4, 3)), IntField(), IntField()]
    theirs = types.get_metadata_type(handlers)
    assert [theirs[position] for position in range(3)] == [beton.RECORD[name] for name in beton.FIELDS]
    assert [theirs.fields[name][1] for name in theirs.names] == [beton.RECORD.fields[name][1] for name in beton.FIELDS]
    assert theirs.itemsize == beton.RECORD.itemsize


@pytest.mark.parametrize("shape", [(4, 4, 3), (8, 8, 1), (17, 17, 3), (512, 512, 3)])
def test_field_descriptors_are_ffcvs(shape: tuple[int, int, int]) -> None:
    ours = np.frombuffer(beton.Layout(1, shape, beton.MIN_PAGE).descriptors(), beton.DESCRIPTOR)
    theirs = [NDArrayField(np.dtype(np.uint8), shape), IntField(), IntField()]
    for descriptor, field in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(descriptor["arguments"], field.to_binary()[0])


# Several images a page and several pages; one page; a last page that is exactly full.
SETS = [(11, (512, 512, 3)), (300, (32, 32, 3)), (32, (512, 512, 1))]


@pytest.mark.parametrize(("samples", "shape"), SETS)
def test_ffcv_finds_the_same_images_labels_and_indices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(beton, "DEFAULT_PAGE", beton.MIN_PAGE)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (samples, *shape), np.uint8)
    labels = generator.integers(0, 1000, samples)
    path = tmp_path / "set.beton"
    write(path, np.array_split(images, 3), labels, image_shape=shape)

    reader = Reader(str(path))
    assert reader.field_names == list(beton.FIELDS)
    assert reader.num_samples == samples
    np.testing.assert_array_equal(reader.alloc_table["ptr"], open_beton(path).layout.pointers())

    order = generator.permutation(samples)
    seen_images, seen_labels, seen_index = _read_with_ffcv(path, order)
    np.testing.assert_array_equal(seen_index, np.arange(samples)[order])
    np.testing.assert_array_equal(seen_images, images[order])
    np.testing.assert_array_equal(seen_labels, labels[order])


def _read_with_ffcv(path: Path, order: np.ndarray) -> tuple[np.ndarray, ...]:
    """One epoch through FFCV's loader, copied, because it reuses its buffers."""
    threads = torch.get_num_threads()
    pipelines = {"image": [NDArrayDecoder()], "label": [IntDecoder()], "index": [IntDecoder()]}
    try:
        loader = Loader(
            str(path),
            batch_size=7,
            num_workers=1,
            os_cache=True,
            order=OrderOption.SEQUENTIAL,
            indices=order,
            drop_last=False,
            pipelines=pipelines,
        )
        batches = [[np.array(part) for part in batch] for batch in loader]
    finally:
        torch.set_num_threads(threads)
    images, labels, index = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return images, labels[:, 0], index[:, 0]
