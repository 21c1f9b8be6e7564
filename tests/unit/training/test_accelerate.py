"""A student's pass compiled, and as CUDA graphs on a stand-in that records operations: CUDA itself is not tested."""

from __future__ import annotations

import copy
import functools
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional

from rt_scale.models.networks import FeaturesOfViews, Network, build_pair
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.training.accelerate import Accelerated, accelerated, compiled, graphed
from tests.unit.training.recorded import FakeCuda

BATCH, VIEWS = 6, 2
TRACED = functools.partial(compiled, backend="eager")
"""All of compiling but the kernels."""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def network(encoder: str = "convnet_4_1", norm: str = "batch", seed: int = 0) -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": encoder, "norm": norm},
            "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 16},
            "student": {"alpha": 1.0},
            "seeds": {"student": seed},
        }
    )
    return build_pair(spec, channels=1, size=8).student.double()


def batch(rows: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, 1, 8, 8, dtype=torch.float64, generator=generator) for _ in range(VIEWS))


def steps(model: Network, count: int) -> list[float]:
    """Losses of ``count`` updates, every third of them on a smaller batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    losses = []
    for step in range(count):
        views = batch(BATCH if step % 3 < 2 else 2, seed=step)
        logits = model.of_views(views)
        loss = functional.cross_entropy(logits, torch.arange(len(logits)) % 16)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("encoder", "norm"), [("convnet_4_1", "batch"), ("convnet_4_2", "none")])
def test_several_updates_by_graphs_are_those_of_the_plain_network(cuda: FakeCuda, encoder: str, norm: str) -> None:
    plain = network(encoder, norm)
    shared = copy.deepcopy(plain)
    model = Accelerated(shared, BATCH, graphed)
    assert steps(model, 8) == steps(plain, 8)
    assert model.slower_because is None
    for (name, ours), theirs in zip(shared.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert [graph.replays for graph in cuda.graphs] == [7, 7]  # once to try


def test_several_updates_compiled_agree_with_the_plain_network_in_float64() -> None:
    plain = network(norm="none")
    shared = copy.deepcopy(plain)
    assert steps(Accelerated(shared, BATCH, compiled), 6) == pytest.approx(steps(plain, 6), rel=1e-9)
    for (name, ours), theirs in zip(shared.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=name)
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["inductor"], "torch's compiler made the kernels"


def test_another_network_of_the_shape_uses_what_was_compiled() -> None:
    traced = functools.partial(compiled, backend="aot_eager")
    for seed in range(3):
        model = network(seed=seed)
        torch.testing.assert_close(
            Accelerated(copy.deepcopy(model), BATCH, traced).of_views(batch(BATCH)), model.of_views(batch(BATCH))
        )
    assert counters["stats"]["unique_graphs"] == 1
    Accelerated(network("convnet_5_1"), BATCH, traced).of_views(batch(BATCH))
    assert counters["stats"]["unique_graphs"] == 2


def test_more_shapes_than_torch_allows_by_itself_are_compiled() -> None:
    for width in range(3, 13):
        Accelerated(network(f"convnet_{width}_1"), BATCH, TRACED).of_views(batch(BATCH))
    assert counters["stats"]["unique_graphs"] == 10


def test_only_whole_batches_in_training_go_that_way() -> None:
    asked: list[int] = []

    def way(module: FeaturesOfViews, views: Sequence[Tensor]) -> Any:
        asked.append(len(views[0]))
        return module.__call__

    model = Accelerated(network(), BATCH, way)
    model.of_views(batch(BATCH - 1))
    model.encoder(batch(BATCH)[0])
    model.features(batch(BATCH)[0])
    model.eval()
    model.of_views(batch(BATCH))
    assert not asked
    model.train()
    for _ in range(2):
        model(batch(BATCH)[0])
    assert asked == [BATCH]


@pytest.mark.parametrize("way", [graphed, TRACED], ids=["graphs", "compiled"])
def test_casts_are_a_part_of_the_pass_and_made_anew_from_weights_that_moved(cuda: FakeCuda, way: Any) -> None:
    plain = network().float()
    model = Accelerated(copy.deepcopy(plain), BATCH, way)
    views = [view.float() for view in batch(BATCH)]
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = [each.features_of_views(views) for each in (model, plain)]
        torch.testing.assert_close(*features, rtol=0, atol=1e-2)
        with torch.no_grad():
            for weight in (*model.parameters(), *plain.parameters()):
                weight.mul_(1.5)
    assert model.slower_because is None


def test_the_loaders_memory_is_not_the_graphs(cuda: FakeCuda) -> None:
    model, views = Accelerated(network(), BATCH, graphed), batch(BATCH)
    first = model.features_of_views(views).detach().clone()
    for view in views:
        view.zero_()
    assert torch.equal(model.features_of_views(batch(BATCH)), first)


def test_how_it_is_recorded(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device of the views, whatever other threads do meanwhile, and after what is dead was freed."""
    collected: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(len(cuda.graphs)))
    Accelerated(network(), BATCH, graphed).of_views(batch(BATCH))
    assert {asked["capture_error_mode"] for asked in cuda.asked} == {"thread_local"}
    assert cuda.devices == [torch.device("cpu")]
    assert collected[0] == 0


@pytest.mark.parametrize("fails", ["at once", "in its pass", "in its gradient"])
def test_what_fails_goes_module_by_module(fails: str) -> None:
    class Refused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, features: Tensor) -> Tensor:
            return features.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise RuntimeError("no kernel\nmore detail")

    def way(module: FeaturesOfViews, views: Sequence[Tensor]) -> Any:
        def made(*given: Tensor) -> Tensor:
            features = module(*given)
            if fails == "in its pass":
                raise RuntimeError("no kernel\nmore detail")
            return Refused.apply(features)  # type: ignore[no-any-return]

        if fails == "at once":
            raise RuntimeError("no kernel\nmore detail")
        return made

    plain = network()
    model = Accelerated(copy.deepcopy(plain), BATCH, way)
    assert model.slower_because is None
    assert steps(model, 4) == steps(plain, 4)
    assert model.slower_because == "its acceleration failed (RuntimeError: no kernel)"


def test_without_a_gpu_graphs_go_module_by_module() -> None:
    plain = network()
    model = accelerated(copy.deepcopy(plain), BATCH, "graphs")
    assert steps(model, 2) == steps(plain, 2)
    assert isinstance(model, Accelerated)
    assert model.slower_because is not None


def test_weights_are_the_networks_own(cuda: FakeCuda) -> None:
    own = network()
    model = Accelerated(own, BATCH, graphed)
    model.of_views(batch(BATCH))
    assert [*model.state_dict()] == [*own.state_dict()]
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), own.parameters(), strict=True))


def test_ways_by_name() -> None:
    own = network()
    assert accelerated(own, BATCH, "none") is own
    assert isinstance(accelerated(own, BATCH, "compile"), Accelerated)
    with pytest.raises(InputError, match=r"'graph'.*compile, graphs, none"):
        accelerated(own, BATCH, "graph")
