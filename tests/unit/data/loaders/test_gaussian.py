from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Loader, order
from rt_scale.data.loaders.gaussian import GaussianLoader, gaussian_images, philox
from rt_scale.data.prepared import NOISE_MEAN, NOISE_STD
from rt_scale.spec.run import stream

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
LOADER: dict[str, Any] = {
    "samples": 10,
    "size": 5,
    "channels": 3,
    "sigma": 2.0,
    "drawn": 1,
    "batch_size": 4,
    "seed": 1,
    "device": "cpu",
}


def _images(index: range | list[int], **changes: Any) -> torch.Tensor:
    given = {"seed": 0, "shape": (4, 4, 3), "sigma": 1.0, "dtype": torch.float64, **changes}
    return gaussian_images(torch.tensor(index, dtype=torch.int64), **given)


def _loader(**changes: Any) -> GaussianLoader:
    return GaussianLoader(**{**LOADER, **changes})


def _by_index(loader: GaussianLoader, epoch: int) -> torch.Tensor:
    batches = list(loader.epoch(epoch))
    index = torch.cat([batch.index for batch in batches])
    return torch.cat([batch.images for batch in batches])[index.argsort()]


@pytest.fixture(scope="module")
def normal() -> torch.Tensor:
    """[4096, 256] standard normal numbers of 4,096 samples."""
    return _images(range(4096), shape=(256,))


def test_moments(normal: torch.Tensor) -> None:
    """Mean, variance, skewness and kurtosis, each within four of its standard errors."""
    n = normal.numel()
    for power, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert normal.pow(power).mean().item() == pytest.approx(expected, abs=4 * math.sqrt(variance / n))


def test_the_distribution_is_normal(normal: torch.Tensor) -> None:
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize("place", range(4))
def test_each_of_four_places_in_a_block_is_normal(normal: torch.Tensor, place: int) -> None:
    assert stats.kstest(normal[:, place::4].flatten().numpy(), "norm").pvalue > 0.01


def test_tails_are_as_heavy_as_they_should_be(normal: torch.Tensor) -> None:
    for limit in (2.0, 3.0, 4.0):
        expected = 2 * stats.norm.sf(limit) * normal.numel()
        for count in (int((normal > limit).sum()), int((normal < -limit).sum())):
            assert count == pytest.approx(expected / 2, abs=4 * math.sqrt(expected / 2))


def test_samples_and_positions_are_independent(normal: torch.Tensor) -> None:
    """Correlations of values, squares and signs between positions, and between samples, are those of chance.

    Of 256 * 255 / 2 pairs the largest correlation is below 5.5 standard errors but for a chance of 1e-3.
    """
    for values in (normal, normal.pow(2), normal.sign()):
        for table in (values.T[:, :4096], values[:256]):
            correlation = torch.corrcoef(table).fill_diagonal_(0)
            assert correlation.abs().max().item() < 5.5 / math.sqrt(table.shape[1])


def test_pairs_fill_the_plane(normal: torch.Tensor) -> None:
    """Both numbers of one transform: angles are uniform in every shell of radii, at 1e-3 for all shells together."""
    chances = []
    for one, other in itertools.combinations(range(4), 2):
        x, y = normal[:, one::4].flatten(), normal[:, other::4].flatten()
        angle, radius = torch.atan2(y, x) / (2 * math.pi) + 0.5, x.hypot(y)
        for low, high in ((0.0, 0.8), (0.8, 1.6), (1.6, 9.0)):
            inside = angle[(radius >= low) & (radius < high)]
            chances.append(stats.kstest(inside.numpy(), "uniform").pvalue)
    assert min(chances) > 1e-3 / len(chances)


def test_the_numbers_are_box_mullers_of_philox() -> None:
    """Sample 3 and one beyond 32 bits, from the words that ``test_counter`` holds to account."""
    for sample in (3, (5 << 32) + 7):
        values = _images([sample], shape=(6,), seed=9)[0].tolist()
        expected = []
        for block in range(2):
            counter = tuple(torch.tensor(word) for word in (block, 0, sample % 2**32, sample >> 32))
            u = [(int(word) + 0.5) / 2**32 for word in philox(counter, stream("data.gaussian", 9))]
            for one, other in ((u[0], u[1]), (u[2], u[3])):
                radius, angle = math.sqrt(-2 * math.log(one)), 2 * math.pi * other
                expected += [radius * math.cos(angle), radius * math.sin(angle)]
        assert values == pytest.approx(expected[:6], rel=1e-14, abs=1e-14)


def test_the_draw_is_pinned() -> None:
    values = _images([0, 1], shape=(2,), dtype=torch.float32)
    assert values.flatten().tolist() == pytest.approx([-1.0811, -1.0679, -0.0826, 0.9355], abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_a_sample_depends_on_its_index_alone(device: str) -> None:
    whole = _images(range(100), device=device).cpu()
    for index in ([7], [99, 7, 7, 0], list(range(50, 100))):
        assert torch.equal(_images(index, device=device).cpu(), whole[index])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_device(device: str, dtype: torch.dtype) -> None:
    for shape in [(), (1,), (5,), (3, 5, 7), (4, 4, 3)]:
        images = _images(range(6), shape=shape, dtype=dtype, device=device)
        assert (tuple(images.shape), images.dtype, images.device.type) == ((6, *shape), dtype, device)
        assert images.is_contiguous()
        # To rounding, whatever made them; and a smaller sample is the head of a larger one.
        reference = _images(range(6), shape=(105,))[:, : math.prod(shape)].to(dtype)
        torch.testing.assert_close(images.cpu().reshape(6, -1), reference, rtol=4 * torch.finfo(dtype).eps, atol=1e-14)
    assert _images([], shape=(2, 3), device=device).shape == (0, 2, 3)


def test_float32_is_float64_rounded() -> None:
    assert torch.equal(_images(range(50), dtype=torch.float32), _images(range(50)).float())


def test_sigma_scales() -> None:
    assert torch.equal(_images(range(9), sigma=0.5), 0.5 * _images(range(9)))


def test_seeds_and_indices_differ() -> None:
    samples = [*_images([0, 1, 1 << 32, (1 << 32) + 1]), *_images([0, 1], seed=1)]
    for one, other in itertools.combinations(samples, 2):
        assert not torch.isclose(one, other, atol=1e-6).any()


@pytest.mark.parametrize("device", DEVICES)
def test_an_epoch_gives_every_sample_under_its_index(device: str) -> None:
    loader: Loader = _loader(device=device)
    assert (loader.samples, loader.batch_size, loader.steps) == (10, 4, 3)
    batches = list(loader.epoch(5))
    assert [tuple(batch.images.shape) for batch in batches] == [(4, 5, 5, 3), (4, 5, 5, 3), (2, 5, 5, 3)]
    np.testing.assert_array_equal(torch.cat([batch.index for batch in batches]).cpu(), order(10, 1, 5))
    for batch in batches:
        assert {each.device.type for each in batch} == {device}
        assert batch.labels.dtype == batch.index.dtype == torch.int64
        assert not batch.labels.any()
        expected = gaussian_images(batch.index, seed=1, shape=(5, 5, 3), sigma=2.0, device=device)
        assert torch.equal(batch.images, expected)


def test_samples_are_the_same_in_every_epoch_batch_size_and_number() -> None:
    whole = _by_index(_loader(), 0)
    for changes, epoch in [({}, 1), ({"batch_size": 7}, 0), ({"samples": 23}, 2)]:
        assert torch.equal(_by_index(_loader(**changes), epoch)[:10], whole)


def test_starting_later_gives_the_tail() -> None:
    whole = list(_loader().epoch(1))
    for start in range(5):
        tail = list(_loader().epoch(1, start))
        assert len(tail) == max(len(whole) - start, 0)
        for one, other in zip(tail, whole[start:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_a_single_process(world: int) -> None:
    ranks = [list(_loader(rank=rank, world=world).epoch(2)) for rank in range(world)]
    for whole, *parts in zip(_loader().epoch(2), *ranks, strict=True):
        for field in ("images", "labels", "index"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))


def test_sequential_is_in_order() -> None:
    batches = list(_loader().sequential())
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.cat([batch.images for batch in batches]), _by_index(_loader(), 0))


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 11},
        {"size": 6},
        {"channels": 1},
        {"sigma": 1.0},
        {"batch_size": 3},
        {"seed": 2},
        {"drawn": 2},
        {"device": "meta"},
        {"dtype": torch.float64},
        {"world": 2},
        {"world": 2, "rank": 1},
    ],
)
def test_every_argument_acts(change: dict[str, Any]) -> None:
    plain, changed = (list(_loader(**changes).epoch(0)) for changes in ({}, change))
    described = [[(each.shape, each.dtype, each.device) for each in batch] for batch in plain + changed]
    assert described[: len(plain)] != described[len(plain) :] or not torch.equal(plain[0].images, changed[0].images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_network_input_as_it_is(dtype: torch.dtype, channels: int) -> None:
    images = next(_loader(channels=channels, dtype=dtype).sequential()).images
    inputs = to_inputs(images, [NOISE_MEAN] * channels, [NOISE_STD] * channels, None, dtype)
    assert torch.equal(inputs, images.permute(0, 3, 1, 2))


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state()
    list(_loader().epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
