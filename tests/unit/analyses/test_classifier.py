"""Loss and accuracy of classifiers by a plain loop, for every choice of statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rt_scale.analyses.classifier import Classifiers
from rt_scale.data.loaders.base import Batch
from rt_scale.spec.stopping import Stopped


class Images:
    """A split of random images in batches of 8."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 4, 4, 1), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(0, 3, (count,), generator=generator)
        self.samples = count

    def sequential(self) -> Iterator[Batch]:
        for chosen in torch.arange(self.samples).split(8):
            yield Batch(self.images[chosen], self.labels[chosen], chosen)


def to_inputs(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).double() / 255


TEST, TRAIN, ESTIMATION = Images(20, 0), Images(30, 1), Images(24, 2)


def build(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 3)).double()
    nn.init.uniform_(network[1].running_mean)
    return network


def make(**changes: Any) -> Classifiers:
    splits = {"test": TEST, "train": TRAIN}
    defaults = {"network": build(0), "splits": splits, "to_inputs": to_inputs, "estimation": ESTIMATION}
    return Classifiers(**{**defaults, **changes})


def plain(network: nn.Module, split: Images) -> tuple[float, float]:
    losses, correct = [], 0
    with torch.no_grad():
        for batch in split.sequential():
            logits = network(to_inputs(batch.images))
            losses += F.cross_entropy(logits, batch.labels, reduction="none").tolist()
            correct += int((logits.argmax(1) == batch.labels).sum())
    return sum(losses) / split.samples, correct / split.samples


@pytest.mark.parametrize("statistics", ["kept", "batch", "estimated"])
def test_as_a_plain_loop(statistics: Any) -> None:
    weights = build(1).state_dict()
    found = make().measure(weights, statistics)
    network = build(1).eval()
    if statistics == "estimated":
        network[1].reset_running_stats()
        network[1].momentum = None
        network.train()
        for batch in ESTIMATION.sequential():
            network(to_inputs(batch.images))
        network.eval()
    network.train(statistics == "batch")
    for split, images in (("test", TEST), ("train", TRAIN)):
        loss, accuracy = plain(network, images)
        assert found[split]["loss"] == pytest.approx(loss, rel=1e-12)
        assert found[split]["accuracy"] == accuracy


def test_weights_are_as_they_were() -> None:
    classifiers, weights = make(), build(1).state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    first = classifiers.measure(weights, "kept")
    for statistics in ("estimated", "batch"):
        classifiers.measure(weights, statistics)  # type: ignore[arg-type]
    assert all(value.equal(kept[name]) for name, value in weights.items())
    assert classifiers.measure(weights, "kept") == first
    assert classifiers.measure(build(2).state_dict(), "kept") != first


def test_only_what_is_asked_for() -> None:
    weights = build(1).state_dict()
    assert list(make(splits={"test": TEST}, estimation=None).measure(weights, "kept")) == ["test"]
    narrow = {"network": build(0).float(), "to_inputs": lambda images: to_inputs(images).float()}
    exact, rough = (make(precision=each, **narrow).measure(weights, "kept") for each in ("float32", "bf16"))
    assert exact["test"]["loss"] != rough["test"]["loss"]
    assert exact["test"]["loss"] == pytest.approx(rough["test"]["loss"], abs=0.05)


def test_it_stops_between_batches() -> None:
    seen = []

    def check_stop() -> None:
        seen.append(None)
        if len(seen) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        make(check_stop=check_stop).measure(build(1).state_dict(), "estimated")
    assert len(seen) == 2
