"""Compiled training agrees with the plain one, and is compiled once a shape; one compilation is real."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional

from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.accelerate.compiled import CompiledNetwork

BATCH = 6


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def network(width: int = 4, seed: int = 0) -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": f"convnet_{width}_1"},
            "projector": {"hidden": [], "bottleneck": 4, "out_dim": 16},
            "student": {"alpha": 1.0},
            "seeds": {"student": seed},
        }
    )
    return build_pair(spec, channels=1, size=8).student.double()


def images(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 1, 8, 8, dtype=torch.float64, generator=generator)


def steps(model: Network, count: int) -> list[float]:
    """Losses of ``count`` updates, every third of them on a smaller batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for step in range(count):
        x = images(BATCH if step % 3 < 2 else 2, seed=step)
        loss = functional.cross_entropy(model.of_views((x,)), torch.arange(len(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_several_updates_agree_with_the_plain_network_in_float64() -> None:
    plain = network()
    shared = copy.deepcopy(plain)
    compiled = CompiledNetwork(shared, BATCH)
    assert steps(compiled, 6) == pytest.approx(steps(plain, 6), rel=1e-9)
    for (name, ours), theirs in zip(shared.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=name)
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["inductor"], "torch's compiler made the kernels"


def test_another_network_of_the_shape_uses_what_was_compiled() -> None:
    for seed in range(3):
        model = network(seed=seed)
        compiled = CompiledNetwork(model, BATCH, backend="aot_eager")
        torch.testing.assert_close(compiled(images(BATCH)), model(images(BATCH)))
    assert counters["stats"]["unique_graphs"] == 1
    CompiledNetwork(network(width=5), BATCH, backend="aot_eager")(images(BATCH))
    assert counters["stats"]["unique_graphs"] == 2


def test_more_shapes_than_torch_allows_by_itself_are_compiled() -> None:
    for width in range(3, 13):
        CompiledNetwork(network(width), BATCH, backend="eager")(images(BATCH))
    assert counters["stats"]["unique_graphs"] == 10


def test_only_whole_batches_in_training_are_compiled() -> None:
    model = network()
    compiled = CompiledNetwork(model, BATCH, backend="eager")
    compiled(images(BATCH - 1))
    compiled.encoder(images(BATCH))
    compiled.features(images(BATCH))
    assert not counters["stats"]
    compiled.of_views((images(BATCH),))
    assert counters["stats"]["unique_graphs"] == 1


def test_weights_are_the_networks_own() -> None:
    model = network()
    compiled = CompiledNetwork(model, BATCH, backend="eager")
    assert [*compiled.state_dict()] == [*model.state_dict()]
    assert all(ours is theirs for ours, theirs in zip(compiled.parameters(), model.parameters(), strict=True))
