from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt_scale.data.subsets import nested_subset, noisy_labels, stratified_split
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import stream

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))


@pytest.mark.parametrize("n", [10, 11, 57, 500, 999, 1000])
def test_counts_differ_by_at_most_one(n: int) -> None:
    chosen = nested_subset(LABELS, n, seed=3)
    counts = np.bincount(LABELS[chosen], minlength=10)
    assert counts.sum() == n == len(np.unique(chosen))
    assert counts.max() - counts.min() <= 1
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()


def test_small_classes_are_used_up_and_the_others_stay_balanced() -> None:
    labels = np.array([0] * 3 + [1] * 50 + [2] * 50)
    counts = np.bincount(labels[nested_subset(labels, 63, seed=0)])
    np.testing.assert_array_equal(counts, [3, 30, 30])


def test_labels_need_not_be_consecutive() -> None:
    labels = np.array([5, 5, 9, 9])
    assert sorted(labels[nested_subset(labels, 2, seed=0)]) == [5, 9]


def test_subsets_are_nested() -> None:
    sets = [set(nested_subset(LABELS, n, seed=1)) for n in range(10, 300, 7)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(sets))


def test_the_seed_decides() -> None:
    first, again, other = (nested_subset(LABELS, 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_draw_is_pinned() -> None:
    assert nested_subset(np.arange(20) % 4, 6, seed=0).tolist() == [0, 5, 9, 14, 15, 16]


def by_sorting_everything(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The subset by its definition: every sample's round, then its draw in that round."""
    generator = np.random.Generator(np.random.PCG64(stream("data.subset", seed)))
    order = np.lexsort((generator.random(len(labels)), labels))
    turn = np.empty(len(labels), np.int64)
    for value in np.unique(labels):
        members = order[labels[order] == value]
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((generator.random(len(labels)), turn))[:n])


@pytest.mark.parametrize("n", [200, 201, 399, 400, 1234, 49_999, 50_000])
@pytest.mark.parametrize("offset", [0, -3, 70_000])
def test_the_samples_are_those_of_the_definition(n: int, offset: int) -> None:
    labels = np.random.default_rng(2).integers(0, 200, 50_000) ** 2 // 200 + offset
    assert len(np.unique(labels)) <= 200
    np.testing.assert_array_equal(nested_subset(labels, n, seed=5), by_sorting_everything(labels, n, seed=5))


def test_at_millions_of_labels_subsets_are_nested_and_balanced() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 1_000_000, np.int8)
    smallest = np.bincount(labels).min()
    inside = np.zeros(len(labels), bool)
    for n in (500, 5000, 50_000, 10 * int(smallest), 1_000_000):
        chosen = nested_subset(labels, n, seed=3)
        now = np.zeros(len(labels), bool)
        now[chosen] = True
        assert not (inside & ~now).any()
        assert now.sum() == n
        counts = np.bincount(labels[chosen])
        assert counts.max() - counts.min() <= 1 or n == 1_000_000
        inside = now


def test_memory_is_a_few_numbers_a_label() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 200_000)
    tracemalloc.start()
    try:
        nested_subset(labels, 500, seed=3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 * len(labels)


@pytest.mark.parametrize("n", [-1, 0, 9, 1001])
def test_sizes_out_of_range_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=rf"{n:,} images.*from 10.*1,000"):
        nested_subset(LABELS, n, seed=0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([10, 10], [2, 2]), ([178, 182, 177], [36, 36, 36]), ([2, 2, 100], [1, 1, 19]), ([4, 4], [1, 1])],
)
def test_a_split_keeps_the_proportions(sizes: list[int], expected: list[int]) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, test = stratified_split(labels, 0)
    assert np.array_equal(np.sort(np.r_[train, test]), np.arange(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    counts = np.bincount(labels[test])
    assert np.abs(counts - expected).max() <= 1
    assert counts.sum() >= np.ceil(len(labels) / 5)
    assert (np.bincount(labels[train]) > 0).all()


def test_splits_differ_by_seed() -> None:
    assert not np.array_equal(stratified_split(LABELS, 0)[1], stratified_split(LABELS, 1)[1])
    assert np.array_equal(stratified_split(LABELS, 1)[1], stratified_split(LABELS, 1)[1])


def test_a_class_of_one_cannot_be_split() -> None:
    with pytest.raises(InputError, match="single image"):
        stratified_split(np.array([0, 0, 1]), 0)


MANY = np.random.default_rng(0).integers(0, 10, 20000)
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
    noisy = noisy_labels(MANY, share, 10, seed=0)
    counts = np.bincount((noisy - MANY) % 10, minlength=10)
    expected = share * len(MANY) / 10
    assert np.abs(counts[1:] - expected).max() < 4 * np.sqrt(expected)
    assert abs(counts[0] - (1 - share) * len(MANY) - expected) < 4 * np.sqrt(expected)


def test_labels_that_are_all_drawn_say_nothing() -> None:
    noisy = noisy_labels(MANY, 1.0, 10, seed=0)
    assert abs(np.corrcoef(noisy, MANY)[0, 1]) < 4 / np.sqrt(len(MANY))


def test_every_sample_is_as_likely_to_be_drawn() -> None:
    wrong = np.stack([noisy_labels(MANY[:200], 0.3, 10, seed) != MANY[:200] for seed in range(400)])
    share = 0.3 * 0.9
    assert np.abs(wrong.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / 400)


def test_the_seed_decides_which_labels_are_noisy() -> None:
    first, again, other = (noisy_labels(MANY, 0.5, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    agreeing = ((first != MANY) & (other != MANY)).mean()
    assert agreeing == pytest.approx(0.45**2, abs=0.02)


def test_more_classes_reach_further() -> None:
    assert noisy_labels(MANY, 1.0, 10, 0).max() == 9
    assert noisy_labels(MANY, 1.0, 20, 0).max() == 19


def test_none_is_wrong_at_nothing() -> None:
    np.testing.assert_array_equal(noisy_labels(MANY, 0.0, 10, seed=0), MANY)


def test_the_noise_is_pinned() -> None:
    assert noisy_labels(np.arange(12) % 4, 0.5, 4, seed=0).tolist() == [1, 1, 2, 3, 3, 0, 2, 3, 1, 1, 2, 1]


def test_short_integers_become_int64() -> None:
    noisy = noisy_labels(np.full(90, 200, np.uint8), 1.0, 300, seed=0)
    assert noisy.dtype == np.int64
    assert noisy.max() > 255
