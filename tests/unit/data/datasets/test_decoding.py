from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from rt_scale.data.datasets.images import check_size, chunk_length, scaled, scaling_note, workers
from rt_scale.spec.errors import InputError


def test_scaling_down_is_antialiased() -> None:
    """Stripes finer than the target's pixels become even grey; picking pixels would leave black or white."""
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(scaled(Image.fromarray(stripes), 24)).astype(int)
    assert small.shape == (24, 24, 3)
    assert abs(small[:, 2:-2] - 127).max() <= 3


def test_oblong_images_are_cropped_in_the_middle() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10] = pixels[:, 20:] = 255
    np.testing.assert_array_equal(np.asarray(scaled(Image.fromarray(pixels), 10)), pixels[:, 10:20])


def test_the_note_says_what_was_done() -> None:
    assert "32 x 32" in scaling_note(32)
    assert "antialiased" in scaling_note(32)


def test_sizes_are_positive() -> None:
    check_size(None)
    check_size(1)
    with pytest.raises(InputError, match="to -3 pixels"):
        check_size(-3)


def test_a_chunk_is_bounded_in_images_and_in_bytes() -> None:
    assert chunk_length(8, 1) == 4096
    assert chunk_length(96, 3) * 96 * 96 * 3 <= 1 << 24
    assert chunk_length(96, 1) > chunk_length(96, 3)
    assert chunk_length(10_000, 3) == 1


def test_threads_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert workers() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert workers() == 1
