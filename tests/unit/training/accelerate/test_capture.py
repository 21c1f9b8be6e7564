"""The capture of a student's pass, on a stand-in for CUDA that records operations: CUDA itself is not tested."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.training.accelerate.graphed import GraphedNetwork, capture_on_cuda
from tests.unit.training.accelerate.recorded import FakeCuda
from tests.unit.training.accelerate.test_graphed import BATCH, batch, network, steps


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_several_updates_are_those_of_the_plain_network(cuda: FakeCuda, norm: str) -> None:
    plain = network(norm=norm)
    shared = copy.deepcopy(plain)
    assert steps(GraphedNetwork(shared, BATCH), 8) == steps(plain, 8)
    for (name, ours), theirs in zip(shared.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert [graph.replays for graph in cuda.graphs] == [6, 6]


def test_weights_that_have_moved_are_cast_anew(cuda: FakeCuda) -> None:
    plain = network().float()
    model = GraphedNetwork(copy.deepcopy(plain), BATCH)
    views = [view.float() for view in batch(BATCH, 0)]
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = [each.features_of_views(views) for each in (model, plain)]
        assert torch.equal(*features)
        with torch.no_grad():
            for weight in (*model.parameters(), *plain.parameters()):
                weight.mul_(1.5)


def test_each_pass_is_of_its_own_views_and_gradient(cuda: FakeCuda) -> None:
    linear, unused = nn.Linear(3, 2), nn.Linear(1, 1)
    module = nn.ModuleDict({"linear": linear, "unused": unused})
    module.forward = linear.forward
    replay = capture_on_cuda(module, (torch.zeros(4, 3),))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        view, direction = torch.randn(4, 3, generator=generator), torch.randn(4, 2, generator=generator)
        features = replay(view)
        assert torch.equal(features, linear(view))
        found = torch.autograd.grad(
            features, [*linear.parameters(), *unused.parameters()], direction, allow_unused=True
        )
        wanted = torch.autograd.grad(linear(view), [*linear.parameters()], direction)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[:2], wanted, strict=True))
        assert found[2:] == (None, None)


def test_how_it_is_recorded(cuda: FakeCuda) -> None:
    """One pool and stream for both graphs, on the device of the views, whatever other threads do meanwhile."""
    capture_on_cuda(nn.Linear(3, 2), (torch.zeros(4, 3),))
    forward, backward = cuda.asked
    assert forward == backward
    assert forward.keys() == {"pool", "stream", "capture_error_mode"}
    assert forward["capture_error_mode"] == "thread_local"
    assert cuda.devices == [torch.device("cpu")]


class Node:
    """Lives as long as what was computed with it can be differentiated."""


class Noted(torch.autograd.Function):
    """Its argument, with a node in the history."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, node: Node) -> Tensor:
        ctx.node = node
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class Noting(nn.Module):
    """A layer that keeps track of its histories."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.nodes: list[weakref.ref[Node]] = []

    def forward(self, view: Tensor) -> Tensor:
        node = Node()
        self.nodes.append(weakref.ref(node))
        features: Tensor = Noted.apply(self.linear(view), node)
        return features


def test_no_history_is_left_of_the_capture(cuda: FakeCuda) -> None:
    """Accumulators of gradients would live on with it, on the stream of the capture, and each step wait for it."""
    module = Noting()
    replay = capture_on_cuda(module, (torch.zeros(4, 3),))
    assert [node() for node in module.nodes] == [None] * 4
    assert torch.equal(replay(torch.ones(4, 3)), module.linear(torch.ones(4, 3)))


def test_graphs_go_with_the_pass_and_do_not_wait_for_the_collector(cuda: FakeCuda) -> None:
    """A graph that the collector frees while another run captures breaks that capture."""
    gc.disable()
    try:
        replay = capture_on_cuda(nn.Linear(3, 2), (torch.zeros(4, 3),))
        replay(torch.ones(4, 3)).sum().backward()
        graphs = [weakref.ref(graph) for graph in cuda.graphs]
        cuda.graphs.clear()
        assert all(graph() is not None for graph in graphs)
        del replay
        assert [graph() for graph in graphs] == [None, None]
    finally:
        gc.enable()


def test_nothing_is_collected_during_a_capture(cuda: FakeCuda) -> None:
    seen = []
    module = nn.Linear(3, 2)
    module.register_forward_pre_hook(lambda *_: seen.append(gc.isenabled()))
    capture_on_cuda(module, (torch.zeros(4, 3),))
    assert seen == [False] * 4
    assert gc.isenabled()


def test_it_is_what_networks_are_captured_by() -> None:
    assert GraphedNetwork(network(), BATCH)._capture is capture_on_cuda
