from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch
from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.distillation import CachedTargets, ComputedTargets

SAMPLES, SIZE = 10, 8


def teacher(dtype: torch.dtype = torch.float64, **projector: Any) -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": "batch"},
            "projector": {"hidden": [6], "bottleneck": 5, "out_dim": 7, **projector},
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


def statistics(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


# The order in which the cache was filled, and its batches, need not be those of training.
FILLING = [[7, 1, 0], [9, 8, 2, 5], [3, 4, 6]]
TRAINING = [[4, 2], [0, 9, 1], [3, 5, 6, 7, 8]]
INPUTS = to_inputs(batches([list(range(SAMPLES))])[0].images)
INDEX = torch.arange(SAMPLES)


@pytest.mark.parametrize("parts", ["-/lb/fn/wn/l/-", "-/lb/fn/-/-/-", "-/-/-/-/l/fn"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_targets_are_the_computed_ones_to_rounding(dtype: torch.dtype, tolerance: float, parts: str) -> None:
    network = teacher(dtype, parts=parts)
    cached = CachedTargets(network, batches(FILLING), SAMPLES, lambda images: to_inputs(images, dtype))
    computed = ComputedTargets(network)
    for batch in batches(TRAINING):
        inputs = to_inputs(batch.images, dtype)
        expected = network(inputs).detach()
        for targets in (cached, computed):
            logits = targets([inputs], batch.index)
            assert logits.dtype == dtype
            assert not logits.requires_grad
            torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


def test_the_cache_knows_images_by_their_index_alone() -> None:
    cached = CachedTargets(teacher(), batches(FILLING), SAMPLES, to_inputs)
    index = torch.tensor([3, 3, 8])
    logits = cached([], index)
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_the_cache_holds_k_features_a_sample() -> None:
    cached = CachedTargets(teacher(torch.float32), batches(FILLING), SAMPLES, lambda x: to_inputs(x, torch.float32))
    assert cached.features.shape == (SAMPLES, 5)
    assert cached.features.dtype == torch.float32


def test_computed_targets_know_images_by_their_pixels_alone() -> None:
    computed = ComputedTargets(teacher())
    first, second, _ = batches(TRAINING)
    one = computed([to_inputs(first.images)], first.index)
    assert torch.equal(computed([to_inputs(first.images)], first.index + 1), one)
    assert not torch.allclose(computed([to_inputs(second.images)], second.index)[:2], one)


def test_several_views_one_after_the_other() -> None:
    network = teacher()
    views = [INPUTS, INPUTS.flip(3), INPUTS[..., :4, :4]]
    logits = ComputedTargets(network)(views, INDEX)
    expected = torch.cat([network(view) for view in views]).detach()
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_last_layer_of_a_teacher_that_moves_is_normalised_anew(frozen: bool) -> None:
    network = teacher()
    computed = ComputedTargets(network, frozen=frozen)
    before = computed([INPUTS], INDEX)
    with torch.no_grad():
        network.projector.last.weight.copy_(network.projector.last.weight.flip(0))
    after = computed([INPUTS], INDEX)
    torch.testing.assert_close(after, before if frozen else before.flip(1), rtol=1e-12, atol=1e-14)


def test_a_constant_last_layer_is_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    network = teacher()
    directions = network.projector.directions
    monkeypatch.setattr(network.projector, "directions", lambda: calls.append(None) or directions())
    computed = ComputedTargets(network)
    for _ in range(3):
        computed([INPUTS], INDEX)
    assert len(calls) == 1


def test_statistics_that_learn_have_seen_the_batch_before_they_are_used() -> None:
    network, other = teacher(batch_norm=True), teacher(batch_norm=True)
    computed = ComputedTargets(network, learn_statistics=True)
    for views in ([INPUTS], [INPUTS.flip(3), INPUTS + 1]):
        other.train()
        other(torch.cat(views))
        other.eval()
        logits = computed(views, INDEX)
        torch.testing.assert_close(logits, other(torch.cat(views)).detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(statistics(network), statistics(other), rtol=1e-12, atol=1e-14)
        assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("learn", [True, False])
def test_a_teacher_in_training_mode_has_one_pass_a_batch(learn: bool) -> None:
    network = teacher(batch_norm=True).train()
    computed = ComputedTargets(network, learn_statistics=learn)
    computed([INPUTS], INDEX)
    assert {int(buffer) for buffer in network.buffers() if not buffer.is_floating_point()} == {1}
    assert all(module.training for module in network.modules())


def test_statistics_that_do_not_learn_stay() -> None:
    network = teacher(batch_norm=True)
    before = statistics(network)
    ComputedTargets(network)([INPUTS], INDEX)
    CachedTargets(network, batches(FILLING), SAMPLES, to_inputs)([INPUTS], INDEX)
    torch.testing.assert_close(statistics(network), before, rtol=0, atol=0)
