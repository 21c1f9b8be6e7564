from __future__ import annotations

import numpy as np
import pytest

from rt_scale.data.loader import check_batch_size, check_subset, order
from rt_scale.spec.errors import InputError


def test_an_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    first = order(1000, seed=1, epoch=0)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert first.dtype == np.int64
    assert np.array_equal(first, order(1000, seed=1, epoch=0))
    for other in (order(1000, seed=1, epoch=1), order(1000, seed=2, epoch=0), order(1000, seed=0, epoch=1)):
        assert not np.array_equal(first, other)


def test_the_order_is_pinned() -> None:
    assert order(8, seed=0, epoch=0).tolist() == [5, 3, 6, 0, 1, 4, 7, 2]
    assert order(8, seed=3, epoch=5).tolist() == [4, 7, 0, 6, 1, 3, 2, 5]


def test_an_order_touches_no_global_generator() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    order(10, 0, 0)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]


@pytest.mark.parametrize("subset", [[], [[0, 1]], [-1, 2], [0, 5]])
def test_impossible_subsets_are_refused(subset: list[int]) -> None:
    with pytest.raises(InputError, match="subset"):
        check_subset(np.array(subset, np.int64), 5)


def test_possible_subsets_pass() -> None:
    assert check_subset(None, 5) is None
    chosen = check_subset(np.array([4, 0], np.int32), 5)
    assert chosen is not None
    assert chosen.dtype == np.int64


@pytest.mark.parametrize("batch_size", [0, -3])
def test_batches_hold_at_least_one(batch_size: int) -> None:
    with pytest.raises(InputError, match=f"{batch_size} was given"):
        check_batch_size(batch_size)
