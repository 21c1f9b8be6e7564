"""The FFCV loader gives what the resident loader gives, whatever happens to its threads and around them."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from rt_scale.data import beton as layout
from rt_scale.data.beton import Beton, open_beton, write
from rt_scale.data.loaders import ffcv_patches
from rt_scale.data.loaders.base import Batch, Loader, order
from rt_scale.data.loaders.ffcv import FFCVLoader
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.spec.errors import RunError

SHAPE = (6, 5, 3)


def _write(path: Path, samples: int, shape: tuple[int, int, int] = SHAPE) -> Beton:
    generator = np.random.default_rng(samples)
    images = generator.integers(0, 256, (samples, *shape), np.uint8)
    write(path, [images], generator.integers(0, 10, samples), image_shape=shape)
    return open_beton(path)


@pytest.fixture
def beton(tmp_path: Path) -> Beton:
    return _write(tmp_path / "set.beton", 57)


def _same(ours: Iterator[Batch], expected: Iterator[Batch]) -> int:
    """How many batches there are, all equal. All are kept while the rest is read, so none may be overwritten."""
    pairs = list(zip(list(ours), list(expected), strict=True))
    for one, other in pairs:
        for mine, theirs in zip(one, other, strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
    return len(pairs)


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("ffcv-read-ahead")]


@pytest.mark.parametrize("threads", [None, 1, 2, 64])
@pytest.mark.parametrize("subset", [None, [5, 50, 3, 3, 20, 41, 0]])
def test_batches_are_those_of_the_resident_loader(beton: Beton, threads: int | None, subset: list[int] | None) -> None:
    chosen = None if subset is None else np.array(subset)
    arguments = {"batch_size": 4, "seed": 3, "device": "cpu", "subset": chosen}
    ours: Loader = FFCVLoader(beton, **arguments, threads=threads)
    resident = ResidentLoader(beton, **arguments)
    assert (ours.samples, ours.batch_size, ours.steps) == (resident.samples, resident.batch_size, resident.steps)
    for epoch, start in [(0, 0), (7, 1), (7, 0), (2, resident.steps - 1)]:
        assert _same(ours.epoch(epoch, start), resident.epoch(epoch, start)) == resident.steps - start
    assert _same(ours.sequential(), resident.sequential()) == resident.steps
    assert list(ours.epoch(0, resident.steps)) == []


# Several pages; one channel; a last batch of one image; images of one byte.
@pytest.mark.parametrize(
    ("samples", "shape"), [(19, (512, 512, 3)), (10, (28, 28, 1)), (9, SHAPE), (4, SHAPE), (33, (1, 1, 1))]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_any_size_of_image_and_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, shape: tuple[int, int, int], threads: int
) -> None:
    monkeypatch.setattr(layout, "DEFAULT_PAGE", layout.MIN_PAGE)
    beton = _write(tmp_path / "set.beton", samples, shape)
    resident = ResidentLoader(beton, batch_size=4, seed=0, device="cpu")
    ours = FFCVLoader(beton, batch_size=4, seed=0, device="cpu", threads=threads)
    _same(ours.epoch(1), resident.epoch(1))


@pytest.mark.parametrize(("batch_size", "world"), [(8, 2), (8, 3), (20, 18)])
def test_ranks_share_every_batch(beton: Beton, batch_size: int, world: int) -> None:
    make = functools.partial(FFCVLoader, beton, batch_size=batch_size, seed=1, device="cpu")
    alone = ResidentLoader(beton, batch_size=batch_size, seed=1, device="cpu")
    ranks = [make(rank=rank, world=world) for rank in range(world)]
    assert {loader.steps for loader in ranks} == {alone.steps}
    for read in (lambda loader: loader.epoch(2, 1), lambda loader: loader.sequential()):
        for batch, *parts in zip(read(alone), *map(read, ranks), strict=True):
            for one, *others in zip(batch, *parts, strict=True):
                assert torch.equal(torch.cat(others), one)
    assert _threads() == []


def test_epochs_and_loaders_at_once_do_not_disturb_each_other(tmp_path: Path, beton: Beton) -> None:
    other = _write(tmp_path / "other.beton", 40)
    sources = [(beton, 0), (beton, 1), (other, 0)]
    ours = [FFCVLoader(each, batch_size=2, seed=seed, device="cpu") for each, seed in sources]
    expected = [ResidentLoader(each, batch_size=2, seed=seed, device="cpu") for each, seed in sources]
    epochs = [(number, epoch) for number in range(3) for epoch in (0, 1)]
    together = list(itertools.zip_longest(*(ours[number].epoch(epoch) for number, epoch in epochs)))
    for column, (number, epoch) in zip(zip(*together, strict=True), epochs, strict=True):
        _same((batch for batch in column if batch is not None), expected[number].epoch(epoch))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("error", [MemoryError("no room"), SystemExit(3), KeyError("x")])
def test_an_error_in_the_thread_ends_the_epoch(
    beton: Beton,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    threads: int,
) -> None:
    loader = FFCVLoader(beton, batch_size=4, seed=0, device="cpu", threads=threads)
    read, culprit = ffcv_patches.Images.read, order(57, 0, 0)[6 * 4]

    def fail(images: ffcv_patches.Images, ids: np.ndarray) -> np.ndarray:
        if culprit in ids:
            raise error
        return read(images, ids)

    monkeypatch.setattr(ffcv_patches.Images, "read", fail)
    epoch = loader.epoch(0)
    assert len(list(itertools.islice(epoch, 6))) == 6
    with pytest.raises(RunError, match=rf"set\.beton' \({type(error).__name__}") as raised:
        next(epoch)
    assert raised.value.__cause__ is error
    assert _threads() == []
    assert capfd.readouterr() == ("", "")
    monkeypatch.undo()
    _same(loader.epoch(0), ResidentLoader(beton, batch_size=4, seed=0, device="cpu").epoch(0))


def _fail_in_the_middle(loader: Loader) -> None:
    for batch in loader.epoch(0):
        _ = len(batch.index) // 0


def test_threads_end_with_their_epoch(beton: Beton) -> None:
    loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
    for _ in loader.epoch(0):
        assert 1 <= len(_threads()) <= loader.threads
    assert _threads() == []
    for number, _ in enumerate(loader.epoch(0)):
        if number == 2:
            break
    assert _threads() == []
    with pytest.raises(ZeroDivisionError):
        _fail_in_the_middle(loader)
    assert _threads() == []


def test_threads_end_with_an_epoch_that_is_forgotten(beton: Beton) -> None:
    loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
    loader.epoch(0)  # never begun: no thread at all
    begun = loader.epoch(0)
    next(begun)
    assert _threads() != []
    del begun
    assert _threads() == []
    cycle: list[object] = [loader.epoch(0)]
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    del cycle, loader
    gc.collect()
    assert _threads() == []


def test_a_file_cut_between_epochs_is_an_error_not_the_end_of_the_process(beton: Beton) -> None:
    loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
    next(loader.epoch(0))
    os.truncate(beton.path, 4096)
    with pytest.raises(RunError, match="was written to while it was read"):
        next(loader.epoch(1))


def test_the_file_may_vanish(beton: Beton) -> None:
    resident = ResidentLoader(beton, batch_size=2, seed=0, device="cpu")
    loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
    beton.path.unlink()
    _same(loader.epoch(0), resident.epoch(0))


def test_an_interrupt_while_waiting_is_not_an_error_of_reading(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = FFCVLoader(beton, batch_size=2, seed=0, device="cpu")
    epoch = loader.epoch(0)
    next(epoch)
    monkeypatch.setattr(Future, "exception", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(epoch)
    assert _threads() == []


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_no_global_generator_is_touched(beton: Beton) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    list(FFCVLoader(beton, batch_size=2, seed=0, device="cpu").epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


def test_code_is_compiled_anew_where_it_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    njit: Callable[..., Callable[..., object]] = numba.njit

    def unwritable(cache: bool = False, **options: object) -> Callable[..., object]:
        if cache:
            raise RuntimeError("cannot cache function '_gather': no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", unwritable)
    gather = ffcv_patches.compiled(ffcv_patches.gather)
    file = np.arange(12, dtype=np.uint8)
    assert gather(np.array([1, 0]), np.array([3, 8], np.uint64), file, 2).tolist() == [[8, 9], [3, 4]]
