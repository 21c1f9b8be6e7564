"""The graphs of a student's pass, with a stand-in for CUDA's capture: CUDA itself is not tested."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.accelerate.graphed import GraphedNetwork
from tests.unit.training.accelerate.graphs import Graphs

BATCH, VIEWS = 6, 2


def network(encoder: str = "convnet_4_1", norm: str = "batch") -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": encoder, "norm": norm},
            "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 16},
            "student": {"alpha": 1.0},
        }
    )
    return build_pair(spec, channels=1, size=8).student.double()


def batch(rows: int, seed: int) -> tuple[Tensor, ...]:
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
def test_several_updates_are_those_of_the_plain_network(encoder: str, norm: str) -> None:
    plain, graphs = network(encoder, norm), Graphs()
    shared = copy.deepcopy(plain)
    assert steps(GraphedNetwork(shared, BATCH, capture=graphs), 8) == steps(plain, 8)
    for (name, ours), theirs in zip(shared.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert (len(graphs.captured), graphs.replays) == (1, 6)


def test_only_whole_batches_in_training_are_graphed() -> None:
    graphs = Graphs()
    model = GraphedNetwork(network(), BATCH, capture=graphs)
    model.of_views(batch(BATCH - 1, 0))
    model.encoder(batch(BATCH, 0)[0])
    model.features(batch(BATCH, 0)[0])
    model.eval()
    model.of_views(batch(BATCH, 0))
    assert not graphs.captured
    model.train()
    model.of_views(batch(BATCH, 0))
    assert len(graphs.captured) == 1


def test_the_loaders_memory_is_not_the_graphs() -> None:
    graphs, views = Graphs(), batch(BATCH, 0)
    GraphedNetwork(network(), BATCH, capture=graphs).of_views(views)
    assert not {view.data_ptr() for view in views} & {view.data_ptr() for view in graphs.captured[0][1]}


def test_casts_are_a_part_of_the_graph() -> None:
    graphs = Graphs()
    model = GraphedNetwork(network().float(), BATCH, capture=graphs)
    views = [view.float() for view in batch(BATCH, 0)]
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda *_: seen.append((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.features_of_views(views)
    plain = network().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features, plain.features_of_views(views))
    assert not torch.equal(features.double(), plain.double().features_of_views(batch(BATCH, 0)))
    # Cast anew in every replay; and outside of the module, where its gradient is captured, nothing is cast.
    assert set(seen) == {(True, False)}
    assert graphs.autocast == [False]


def refusing(module: nn.Module, views: tuple[Tensor, ...]) -> Any:
    module(*views)
    raise RuntimeError("operation not permitted when stream is capturing\nmore detail")


def test_what_cannot_be_captured_goes_module_by_module() -> None:
    plain = network()
    model = GraphedNetwork(copy.deepcopy(plain), BATCH, capture=refusing)
    assert model.plain_because is None
    assert steps(model, 4) == steps(plain, 4)
    assert model.plain_because == "its capture failed (operation not permitted when stream is capturing)"


def test_weights_are_the_networks_own() -> None:
    own = network()
    model = GraphedNetwork(own, BATCH, capture=Graphs())
    model.of_views(batch(BATCH, 0))
    assert [*model.state_dict()] == [*own.state_dict()]
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), own.parameters(), strict=True))


def test_a_graph_goes_with_its_network_and_does_not_wait_for_the_collector() -> None:
    """A graph that the collector frees while another run captures breaks that capture."""

    def capture(module: nn.Module, views: tuple[Tensor, ...]) -> Any:
        return module.__call__

    model = GraphedNetwork(network(), BATCH, capture=capture)
    model.of_views(batch(BATCH, 0))
    held = weakref.ref(model._pass.__self__)  # type: ignore[union-attr]
    gc.disable()
    try:
        del model
        assert held() is None
    finally:
        gc.enable()
