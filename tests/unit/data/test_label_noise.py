from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt_scale.data.subsets import noisy_labels
from rt_scale.spec.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 10, 20000)
SHARE = st.floats(0, 1)


@given(st.data(), SHARE, SHARE, st.integers(2, 12), st.integers(0, 2**40))
def test_a_share_is_drawn_and_nested(data: st.DataObject, one: float, other: float, classes: int, seed: int) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), max_size=50)), np.int64)
    before = labels.copy()
    small, large = (noisy_labels(labels, share, classes, seed) for share in sorted((one, other)))
    np.testing.assert_array_equal(labels, before)
    for share, noisy in zip(sorted((one, other)), (small, large), strict=True):
        assert (noisy != labels).sum() <= round(share * len(labels))
        assert noisy.dtype == np.int64
        assert ((noisy >= 0) & (noisy < classes)).all()
    wrong = small != labels
    np.testing.assert_array_equal(large[wrong], small[wrong])


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_every_class_is_as_likely_the_right_one_too(share: float) -> None:
    noisy = noisy_labels(LABELS, share, 10, seed=0)
    counts = np.bincount((noisy - LABELS) % 10, minlength=10)
    expected = share * len(LABELS) / 10
    assert np.abs(counts[1:] - expected).max() < 4 * np.sqrt(expected)
    assert abs(counts[0] - (1 - share) * len(LABELS) - expected) < 4 * np.sqrt(expected)


def test_labels_that_are_all_drawn_say_nothing() -> None:
    noisy = noisy_labels(LABELS, 1.0, 10, seed=0)
    assert abs(np.corrcoef(noisy, LABELS)[0, 1]) < 4 / np.sqrt(len(LABELS))


def test_every_sample_is_as_likely_to_be_drawn() -> None:
    wrong = np.stack([noisy_labels(LABELS[:200], 0.3, 10, seed) != LABELS[:200] for seed in range(400)])
    share = 0.3 * 0.9
    assert np.abs(wrong.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / 400)


def test_the_seed_decides() -> None:
    first, again, other = (noisy_labels(LABELS, 0.5, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    agreeing = ((first != LABELS) & (other != LABELS)).mean()
    assert agreeing == pytest.approx(0.45**2, abs=0.02)


def test_more_classes_reach_further() -> None:
    assert noisy_labels(LABELS, 1.0, 10, 0).max() == 9
    assert noisy_labels(LABELS, 1.0, 20, 0).max() == 19


def test_none_is_wrong_at_nothing() -> None:
    np.testing.assert_array_equal(noisy_labels(LABELS, 0.0, 10, seed=0), LABELS)


def test_the_draw_is_pinned() -> None:
    assert noisy_labels(np.arange(12) % 4, 0.5, 4, seed=0).tolist() == [1, 1, 2, 3, 3, 0, 2, 3, 1, 1, 2, 1]


def test_short_integers_become_int64() -> None:
    noisy = noisy_labels(np.full(90, 200, np.uint8), 1.0, 300, seed=0)
    assert noisy.dtype == np.int64
    assert noisy.max() > 255


@pytest.mark.parametrize(
    ("share", "classes", "labels", "message"),
    [
        (-0.1, 10, [0], "share of -0.1"),
        (1.01, 10, [0], "share of 1.01"),
        (float("nan"), 10, [0], "share of nan"),
        (0.5, 1, [0], "there are 1"),
        (0.5, 3, [0, 3], "from 0 to 3; of 3 classes"),
        (0.5, 3, [-1, 2], "from -1 to 2"),
    ],
)
def test_impossible_requests_are_refused(share: float, classes: int, labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        noisy_labels(np.array(labels), share, classes, seed=0)
