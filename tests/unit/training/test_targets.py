from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.data.loader import Batch
from rt_scale.models.pair import Network, build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.targets import CachedTargets, ComputedTargets

SAMPLES, SIZE = 10, 8


def teacher(dtype: torch.dtype = torch.float64) -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": "batch"},
            "projector": {"hidden": [6], "bottleneck": 5, "out_dim": 7},
        }
    )
    return build_pair(spec, channels=1, size=SIZE).teacher.to(dtype)


def batches(indices: list[list[int]]) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, SIZE, SIZE, 1), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(SAMPLES, dtype=torch.int64)
    return [Batch(images[index], labels[index], torch.tensor(index)) for index in indices]


def to_inputs(images: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return images.permute(0, 3, 1, 2).to(dtype) / 255


# The order in which the cache was filled, and its batches, need not be those of training.
FILLING = [[7, 1, 0], [9, 8, 2, 5], [3, 4, 6]]
TRAINING = [[4, 2], [0, 9, 1], [3, 5, 6, 7, 8]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_targets_are_the_computed_ones_to_rounding(dtype: torch.dtype, tolerance: float) -> None:
    network = teacher(dtype)
    cached = CachedTargets(network, batches(FILLING), SAMPLES, lambda images: to_inputs(images, dtype))
    computed = ComputedTargets(network)
    for batch in batches(TRAINING):
        inputs = to_inputs(batch.images, dtype)
        expected = network(inputs).detach()
        for targets in (cached, computed):
            logits = targets(inputs, batch.index)
            assert logits.dtype == dtype
            assert not logits.requires_grad
            torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


def test_the_cache_knows_images_by_their_index_alone() -> None:
    cached = CachedTargets(teacher(), batches(FILLING), SAMPLES, to_inputs)
    index = torch.tensor([3, 3, 8])
    logits = cached(torch.empty(0), index)
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_the_cache_holds_k_features_a_sample() -> None:
    cached = CachedTargets(teacher(torch.float32), batches(FILLING), SAMPLES, lambda x: to_inputs(x, torch.float32))
    assert cached.features.shape == (SAMPLES, 5)
    assert cached.features.dtype == torch.float32


def test_computed_targets_know_images_by_their_pixels_alone() -> None:
    computed = ComputedTargets(teacher())
    first, second, _ = batches(TRAINING)
    one = computed(to_inputs(first.images), first.index)
    assert torch.equal(computed(to_inputs(first.images), first.index + 1), one)
    assert not torch.allclose(computed(to_inputs(second.images), second.index)[:2], one)


def test_the_embedding_of_the_training_images_reports_how_far_it_is() -> None:
    reported: list[int] = []
    CachedTargets(teacher(), batches(FILLING), SAMPLES, to_inputs, reported.append)
    assert reported == [3, 4, 3]
