from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from rt_scale.data.beton import Beton, open_beton, write
from rt_scale.data.loaders import resident
from rt_scale.data.loaders.base import Batch, Loader, order
from rt_scale.data.loaders.resident import Resident, ResidentLoader
from rt_scale.spec.errors import InputError

MakeBeton = Callable[..., tuple[Beton, np.ndarray]]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def _joined(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images, labels, index = zip(*batches, strict=True)
    return tuple(torch.cat(part).cpu().numpy() for part in (images, labels, index))  # type: ignore[return-value]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("host", [False, True])
def test_an_epoch_gives_every_sample_with_its_label_and_index(make_beton: MakeBeton, device: str, host: bool) -> None:
    beton, expected = make_beton(10)
    loader: Loader = ResidentLoader(beton, batch_size=4, seed=2, device=device, host=host)
    assert (loader.samples, loader.batch_size, loader.steps) == (10, 4, 3)
    batches = list(loader.epoch(5))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    assert {batch.images.device.type for batch in batches} == {device}
    assert batches[0].images.dtype == torch.uint8
    assert batches[0].labels.dtype == batches[0].index.dtype == torch.int64
    images, labels, index = _joined(batches)
    np.testing.assert_array_equal(index, order(10, 2, 5))
    np.testing.assert_array_equal(images, expected[index])
    np.testing.assert_array_equal(labels, beton.labels[index])


def test_starting_later_gives_the_tail(make_beton: MakeBeton) -> None:
    loader = ResidentLoader(make_beton(10)[0], batch_size=3, seed=0, device="cpu")
    whole = list(loader.epoch(1))
    for start in range(5):
        tail = list(loader.epoch(1, start))
        assert len(tail) == len(whole) - start
        for one, other in zip(tail, whole[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_sequential_is_in_order(make_beton: MakeBeton) -> None:
    beton, expected = make_beton(7)
    images, _, index = _joined(list(ResidentLoader(beton, batch_size=3, seed=9, device="cpu").sequential()))
    np.testing.assert_array_equal(index, np.arange(7))
    np.testing.assert_array_equal(images, expected)


def test_a_subset_is_numbered_from_zero(make_beton: MakeBeton) -> None:
    beton, expected = make_beton(10)
    subset = np.array([8, 1, 5])
    loader = ResidentLoader(beton, batch_size=2, seed=0, device="cpu", subset=subset)
    assert (loader.samples, loader.steps) == (3, 2)
    images, labels, index = _joined(list(loader.epoch(0)))
    assert sorted(index) == [0, 1, 2]
    np.testing.assert_array_equal(images, expected[subset[index]])
    np.testing.assert_array_equal(labels, beton.labels[subset[index]])


def test_seeds_and_epochs_differ(make_beton: MakeBeton) -> None:
    beton, _ = make_beton(50)

    def index(seed: int, epoch: int) -> list[int]:
        loader = ResidentLoader(beton, batch_size=50, seed=seed, device="cpu")
        return next(loader.epoch(epoch)).index.tolist()

    assert index(0, 0) == index(0, 0)
    assert len({tuple(index(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_the_file_may_vanish(make_beton: MakeBeton) -> None:
    beton, expected = make_beton(6)
    loader = ResidentLoader(beton, batch_size=6, seed=0, device="cpu")
    beton.path.unlink()
    del beton
    np.testing.assert_array_equal(next(loader.sequential()).images.numpy(), expected)


def test_host_memory_keeps_the_images_off_the_device(make_beton: MakeBeton) -> None:
    beton, _ = make_beton(6)
    for host, place in ((True, "cpu"), (False, "meta")):
        kept = Resident()
        loader = ResidentLoader(beton, batch_size=2, seed=0, device="meta", host=host, resident=kept)
        assert next(loader.epoch(0)).images.device.type == "meta"
        assert kept.held(torch.device(place)) == 6 * 48


def test_impossible_requests_are_refused(make_beton: MakeBeton) -> None:
    beton, _ = make_beton(6)
    with pytest.raises(InputError, match="positions 0 to 6"):
        ResidentLoader(beton, batch_size=1, seed=0, device="cpu", subset=np.array([0, 6]))


def test_no_global_generator_is_touched(make_beton: MakeBeton) -> None:
    beton, _ = make_beton(6)
    before = torch.get_rng_state()
    list(ResidentLoader(beton, batch_size=2, seed=0, device="cpu").epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("host", [False, True])
@pytest.mark.parametrize(("samples", "batch_size", "world"), [(10, 4, 2), (11, 5, 3), (9, 4, 4)])
def test_ranks_share_every_batch(make_beton: MakeBeton, host: bool, samples: int, batch_size: int, world: int) -> None:
    beton, _ = make_beton(samples)
    make = functools.partial(ResidentLoader, beton, batch_size=batch_size, seed=1, device="cpu", host=host)
    alone, ranks = make(), [make(rank=rank, world=world) for rank in range(world)]
    assert {loader.steps for loader in ranks} == {alone.steps}
    for read in (lambda loader: loader.epoch(2, 1), lambda loader: loader.sequential()):
        for batch, *parts in zip(read(alone), *map(read, ranks), strict=True):
            for one, *others in zip(batch, *parts, strict=True):
                assert torch.equal(torch.cat(others), one)


@pytest.mark.parametrize("device", DEVICES)
def test_images_stay_from_run_to_run(make_beton: MakeBeton, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    (one, images), (two, _) = make_beton(6), make_beton(5)
    read: list[int] = []
    original = Beton.read_all
    monkeypatch.setattr(Beton, "read_all", lambda beton: read.append(beton.samples) or original(beton))
    kept, place = Resident(), torch.device(device)

    def run(*betons: Beton) -> list[ResidentLoader]:
        kept.next_run()
        return [ResidentLoader(each, batch_size=2, seed=0, device=device, resident=kept) for each in betons]

    first, second = run(one)[0], run(open_beton(one.path))[0]
    assert first._rows.data_ptr() == second._rows.data_ptr()
    np.testing.assert_array_equal(_joined(list(second.sequential()))[0], images)
    assert len(read) == 1
    assert kept.held(place) == images.nbytes
    run(two)
    run(one, two)
    assert read == [6, 5]
    # What neither this run nor the two before used is gone.
    for _ in range(3):
        run(two)
    assert kept.held(place) == two.samples * images[0].nbytes
    run(one)
    assert read == [6, 5, 6]
    kept.clear()
    assert kept.held(place) == 0
    run(one)
    assert len(read) == 4


def test_other_images_are_not_taken_for_those_that_are_kept(make_beton: MakeBeton) -> None:
    beton, images = make_beton(6)
    kept = Resident()

    def first(given: Beton, subset: np.ndarray | None = None) -> np.ndarray:
        loader = ResidentLoader(given, batch_size=2, seed=0, device="cpu", subset=subset, resident=kept)
        return next(loader.sequential()).images[0].numpy()

    np.testing.assert_array_equal(first(beton), images[0])
    np.testing.assert_array_equal(first(beton, np.array([4, 1])), images[4])
    np.testing.assert_array_equal(first(beton, np.array([1, 4])), images[1])
    assert kept.held(torch.device("cpu")) == images.nbytes + 4 * images[0].nbytes
    write(beton.path, [255 - images], beton.labels, image_shape=beton.image_shape)
    np.testing.assert_array_equal(first(open_beton(beton.path)), 255 - images[0])
    np.testing.assert_array_equal(first(beton), images[0])


def test_idle_images_make_room(make_beton: MakeBeton, monkeypatch: pytest.MonkeyPatch) -> None:
    betons = [make_beton(samples)[0] for samples in (6, 7)]
    size, kept = 6 * 48, Resident()
    for limit, held in ((size, 13 * 48), (size - 1, 7 * 48)):
        monkeypatch.setattr(resident, "LARGEST_IDLE", limit)
        kept.clear()
        for beton in betons:
            kept.next_run()
            kept.rows(beton, None, torch.device("cpu"))
        assert kept.held(torch.device("cpu")) == held
    # Those of the present run lie there in any case.
    kept.rows(betons[0], None, torch.device("cpu"))
    assert kept.held(torch.device("cpu")) == 13 * 48
