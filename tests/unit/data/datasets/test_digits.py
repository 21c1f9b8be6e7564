from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.grey import read_digits
from rt_scale.data.datasets.original import check


def test_the_split_is_complete_and_stratified() -> None:
    original = read_digits(DATASETS["digits"])
    check(original)
    train, test = (np.concatenate(list(split.chunks())) for split in (original.train, original.test))
    assert train.shape == (1437, 8, 8, 1)
    assert test.shape == (360, 8, 8, 1)
    everything = np.concatenate([train, test])[..., 0]
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert {image.tobytes() for image in everything} == {image.tobytes() for image in expected}
    assert (everything.min(), everything.max()) == (0, 255)
    counts = np.bincount(original.test.labels)
    assert (counts.min(), counts.max()) == (35, 37)


def test_pinned_statistics_are_those_measured() -> None:
    info = DATASETS["digits"]
    pixels = np.concatenate(list(read_digits(info).train.chunks())) / 255
    np.testing.assert_allclose([pixels.mean(), pixels.std()], [info.mean[0], info.std[0]], atol=5e-6)


def test_the_split_is_pinned() -> None:
    assert read_digits(DATASETS["digits"]).test.labels[:12].tolist() == [0, 2, 5, 6, 7, 0, 3, 8, 9, 5, 6, 5]
