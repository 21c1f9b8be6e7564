from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rt_scale.data.loaders.base import Batch


@dataclass
class FakeSplit:
    """Images held in memory, given out in index order."""

    images: Tensor
    labels: Tensor
    batch_size: int = 7

    @property
    def samples(self) -> int:
        return len(self.images)

    def sequential(self) -> Iterator[Batch]:
        for index in torch.split(torch.arange(self.samples), self.batch_size):
            yield Batch(self.images[index], self.labels[index], index)


def make_split(samples: int, seed: int) -> FakeSplit:
    """Noise whose brightness tells its class of three."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    noise = torch.randint(0, 60, (samples, 4, 4, 3), generator=generator)
    return FakeSplit((noise + 60 * labels[:, None, None, None]).to(torch.uint8), labels)


@pytest.fixture
def train() -> FakeSplit:
    return make_split(60, 0)


@pytest.fixture
def test() -> FakeSplit:
    return make_split(31, 1)
