"""Statistics of batch norms: estimated as a plain loop does, those of the batch, interpolated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rt_scale.analyses.statistics import (
    batch_norms,
    batch_statistics,
    combined,
    estimate_statistics,
    refuse_negative_variances,
)
from rt_scale.spec.errors import InputError


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)
    network = nn.Sequential(*layers)
    for norm in batch_norms(network):
        nn.init.uniform_(norm.running_mean)
    return network.double().train()


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64) for size in sizes]


def plain(network: nn.Sequential, inputs: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Means over batches of the mean and unbiased variance of what enters each norm, batch by batch."""
    sums = {index: [torch.zeros(()), torch.zeros(())] for index in (1, 4)}
    images = 0
    for x in inputs:
        size = len(x)
        images += size
        for index, layer in enumerate(network[:5]):
            if index not in sums:
                x = layer(x)
                continue
            values = x.transpose(0, 1).flatten(1)
            mean, variance = values.mean(1), values.var(1)
            sums[index] = [sums[index][0] + size * mean, sums[index][1] + size * variance]
            shape = (1, -1, 1, 1)
            x = (x - mean.view(shape)) / (values.var(1, correction=0) + layer.eps).sqrt().view(shape)
            x = x * layer.weight.view(shape) + layer.bias.view(shape)
    return [(mean / images, variance / images) for mean, variance in sums.values()]


def test_estimated_as_a_plain_loop(network: nn.Sequential) -> None:
    inputs = batches(8, 8, 5)
    with torch.no_grad():
        expected = plain(network, inputs)
    estimate_statistics(network, inputs)
    for norm, (mean, variance) in zip(batch_norms(network), expected, strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, variance, rtol=1e-12, atol=1e-12)
        assert norm.momentum == 0.1
        assert norm.training
    assert network[5].training


def test_estimated_under_autocast(network: nn.Sequential) -> None:
    network.float()
    inputs = [each.float() for each in batches(8)]
    estimate_statistics(network, inputs)
    exact = network[4].running_mean.clone()
    estimate_statistics(network, inputs, "bf16")
    assert not network[4].running_mean.equal(exact)
    torch.testing.assert_close(network[4].running_mean, exact, rtol=0.1, atol=0.05)


def test_nothing_to_estimate_is_not_computed() -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("computed")

    estimate_statistics(Never(), batches(8))


def test_those_of_the_batch(network: nn.Sequential) -> None:
    (x,) = batches(8)
    with batch_statistics(network), torch.no_grad():
        found = network(x)
        assert not network[5].training
    assert network[5].training
    torch.testing.assert_close(found, network[:5](x))  # in training mode, without the dropout


def test_running_statistics_stay_within(network: nn.Sequential) -> None:
    before = [norm.running_mean.clone() for norm in batch_norms(network)]
    with batch_statistics(network), torch.no_grad():
        network(*batches(8))
    assert all(norm.running_mean.equal(mean) for norm, mean in zip(batch_norms(network), before, strict=True))


def test_combined() -> None:
    one = {"w": torch.tensor([1.0, -2.0]), "count": torch.tensor(3)}
    other = {"w": torch.tensor([5.0, 6.0]), "count": torch.tensor(4)}
    assert combined([one, other], [0.25, 0.75])["w"].tolist() == [4.0, 4.0]
    assert combined([one, other], [0.25, 0.75])["count"] == 3
    assert combined([one, other], [0.0, 1.0])["w"].equal(other["w"])
    assert combined([one, other, other], [-1.0, 1.0, 1.0])["w"].tolist() == [9.0, 14.0]
    assert one["w"].tolist() == [1.0, -2.0]


def test_negative_variances_are_refused() -> None:
    ends = [{"a.running_var": torch.tensor([1.0, 4.0])}, {"a.running_var": torch.tensor([2.0, 1.0])}]
    refuse_negative_variances(combined(ends, [0.0, 1.0]), "position 1")
    refuse_negative_variances(combined(ends, [-0.3, 1.3]), "position 1.3")  # beyond the end, and still above 0
    with pytest.raises(InputError, match=r"position 1\.5 the interpolated variance of a\.running_var is -0\.5"):
        refuse_negative_variances(combined(ends, [-0.5, 1.5]), "position 1.5")
