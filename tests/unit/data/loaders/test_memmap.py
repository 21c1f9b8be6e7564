from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rt_scale.data.beton import Beton
from rt_scale.data.loaders.base import MapLoader
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.spec.errors import InputError

SAMPLES = 23


@pytest.fixture
def beton(make_beton: Callable[..., tuple[Beton, np.ndarray]]) -> Beton:
    return make_beton(SAMPLES)[0]


@pytest.mark.parametrize("subset", [None, [7, 3, 22, 0, 11]])
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_batches_are_those_of_the_resident_loader(
    beton: Beton, subset: list[int] | None, rank: int, world: int
) -> None:
    chosen = None if subset is None else np.array(subset)
    mapped, resident = (
        kind(beton, batch_size=4, seed=3, device="cpu", subset=chosen, rank=rank, world=world)
        for kind in (MapLoader, ResidentLoader)
    )
    assert (mapped.samples, mapped.steps) == (resident.samples, resident.steps)
    for ours, theirs in (
        (mapped.epoch(5), resident.epoch(5)),
        (mapped.epoch(2, start=1), resident.epoch(2, start=1)),
        (mapped.sequential(), resident.sequential()),
    ):
        for one, other in zip(ours, theirs, strict=True):
            for a, b in zip(one, other, strict=True):
                assert a.dtype == b.dtype
                assert torch.equal(a, b)


def test_seeds_give_other_orders(beton: Beton) -> None:
    one, other = (next(MapLoader(beton, batch_size=9, seed=seed, device="cpu").epoch(0)).index for seed in (0, 1))
    assert not torch.equal(one, other)


def test_batches_lie_in_memory_of_their_own(beton: Beton) -> None:
    loader = MapLoader(beton, batch_size=8, seed=0, device="cpu")
    batches = list(loader.sequential())
    copies = [batch.images.clone() for batch in batches]
    batches[0].images.zero_()
    list(loader.epoch(0))
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(batches[1:], copies[1:], strict=True))
    assert torch.equal(next(loader.sequential()).images, copies[0])


@pytest.mark.parametrize("subset", [[], [[0, 1]], [-1, 2], [0, SAMPLES]])
def test_positions_that_are_not_there_are_refused(beton: Beton, subset: list[int]) -> None:
    with pytest.raises(InputError, match="subset"):
        MapLoader(beton, batch_size=4, seed=0, device="cpu", subset=np.array(subset))
