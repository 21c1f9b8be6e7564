from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import MapLoader, order, shares
from rt_scale.spec.errors import InputError

MakeBeton = Callable[..., tuple[Beton, np.ndarray]]


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch of 0 samples cannot be shared"),
        ({"batch_size": 3, "rank": 3, "world": 4}, "batch of 3 samples cannot be shared by 4 ranks"),
    ],
)
def test_impossible_requests_are_refused(make_beton: MakeBeton, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MapLoader(make_beton(9)[0], **{"batch_size": 4, "seed": 0, "device": "cpu", **changes})


def test_a_batch_with_a_sample_for_every_rank_is_shared(make_beton: MakeBeton) -> None:
    loader = MapLoader(make_beton(9)[0], batch_size=4, seed=0, device="cpu", rank=3, world=4)
    assert (loader.rank, loader.world, loader.steps) == (3, 4, 3)
    assert [loader.share(number) for number in range(3)] == [(4, 3), (4, 3), (1, 0)]


@given(samples=st.integers(1, 70), world=st.integers(1, 7), each=st.integers(1, 5), extra=st.integers(0, 6))
def test_shares_of_all_ranks_join_to_the_batches_of_one(samples: int, world: int, each: int, extra: int) -> None:
    batch_size = world * each + extra
    ranks = [list(shares(samples, batch_size, rank, world)) for rank in range(world)]
    everything = list(range(samples))
    for number, (batch, *parts) in enumerate(zip(shares(samples, batch_size, 0, 1), *ranks, strict=True)):
        assert everything[batch] == everything[number * batch_size :][:batch_size]
        assert [position for part in parts for position in everything[part]] == everything[batch]
        sizes = [part.stop - part.start for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_a_last_batch_smaller_than_the_ranks_leaves_some_with_none() -> None:
    sizes = [[part.stop - part.start for part in shares(9, 4, rank, 4)] for rank in range(4)]
    assert sizes == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]
