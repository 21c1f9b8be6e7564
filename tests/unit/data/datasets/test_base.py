from __future__ import annotations

import numpy as np
import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.base import CHUNK, Original, Split, in_memory
from rt_scale.spec.errors import InputError


def _original(train: np.ndarray, test: np.ndarray) -> Original:
    def split(labels: np.ndarray) -> Split:
        return in_memory(np.zeros((len(labels), 8, 8, 1), np.uint8), labels)

    return Original(DATASETS["digits"].info, split(train), split(test))


def test_chunks_are_bounded() -> None:
    images = np.random.default_rng(0).integers(0, 256, (CHUNK + 3, 1, 1, 1), np.uint8)
    split = in_memory(images, np.zeros(len(images)))
    assert [len(chunk) for chunk in split.chunks()] == [CHUNK, 3]
    np.testing.assert_array_equal(np.concatenate(list(split.chunks())), images)


def test_complete_originals_pass() -> None:
    _original(np.arange(1437) % 10, np.arange(360) % 10).check()


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (np.zeros(1436), np.zeros(360), "1,436 training images, 1,437 are expected"),
        (np.zeros(1437), np.zeros(361), "361 test images, 360 are expected"),
        (np.r_[np.zeros(1436), 10], np.zeros(360), "Label 10 among the training images"),
        (np.zeros(1437), np.r_[np.zeros(359), -1], "Label -1 among the test images"),
    ],
)
def test_counts_and_labels_are_checked(train: np.ndarray, test: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _original(train, test).check()
