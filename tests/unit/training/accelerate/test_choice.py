"""Which way a student's pass goes: the fastest that agrees, and what a run began with."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from rt_scale.models.networks import Network, build_pair
from rt_scale.spec.run import RunSpec
from rt_scale.training.accelerate import choice as pass_choice
from rt_scale.training.accelerate.choice import COMPILED, EAGER, GRAPHED, Trial, choose, try_out
from rt_scale.training.accelerate.graphed import GraphedNetwork
from tests.unit.training.accelerate.graphs import Graphs

GRADIENT = torch.tensor([3.0, 4.0], dtype=torch.float64)
LONG, SHORT = 10**6, 10


def trials(seconds: dict[str, float | Exception], off: dict[str, float] | None = None) -> tuple[Any, list[str]]:
    """What ``choose`` asks for, and the ways that it asked for."""
    tried: list[str] = []

    def trial(way: str) -> Trial:
        tried.append(way)
        found = seconds[way]
        if isinstance(found, Exception):
            raise found
        return Trial(found, GRADIENT * (1 + (off or {}).get(way, 0.0)))

    return trial, tried


@pytest.mark.parametrize(
    ("seconds", "steps", "wanted", "asked"),
    [
        ({EAGER: 2e-3, GRAPHED: 1e-3}, SHORT, GRAPHED, [EAGER, GRAPHED]),
        ({EAGER: 2e-3, GRAPHED: 1.95e-3}, SHORT, EAGER, [EAGER, GRAPHED]),
        ({EAGER: 2e-3, GRAPHED: 1e-3, COMPILED: 0.5e-3}, LONG, COMPILED, [EAGER, GRAPHED, COMPILED]),
        ({EAGER: 2e-3, GRAPHED: 1e-3, COMPILED: 1.5e-3}, LONG, GRAPHED, [EAGER, GRAPHED, COMPILED]),
        # 10^6 passes of 1 ms take 1,000 s, those of 0.5 ms 500 s: less than ten times what compiling may take.
        ({EAGER: 2e-3, GRAPHED: 0.5e-3}, LONG, GRAPHED, [EAGER, GRAPHED]),
    ],
)
def test_the_fastest_is_taken_where_trying_it_is_worth_it(
    seconds: dict[str, float | Exception], steps: int, wanted: str, asked: list[str]
) -> None:
    trial, tried = trials(seconds)
    assert choose(trial, "float32", steps=steps)[0] == wanted
    assert tried == asked


def test_it_is_not_compiled_where_it_may_not_be() -> None:
    trial, tried = trials({EAGER: 2e-3, GRAPHED: 1e-3})
    name, why = choose(trial, "float32", steps=LONG, compiling=False)
    assert (name, why, tried) == (GRAPHED, "eager 2 ms a pass, graphed 1", [EAGER, GRAPHED])


@pytest.mark.parametrize(
    ("precision", "allowed"), [("float64", 1e-9), ("float32", 1e-3), ("tf32", 1e-2), ("bf16", 0.05)]
)
def test_gradients_must_agree(precision: str, allowed: float) -> None:
    times: dict[str, float | Exception] = {EAGER: 2e-3, GRAPHED: 1e-3}
    name, why = choose(trials(times, {GRAPHED: 2 * allowed})[0], precision, steps=SHORT)
    assert name == EAGER
    assert why == f"eager 2 ms a pass, graphed gradients are {2 * allowed:.1e} off here"
    assert choose(trials(times, {GRAPHED: allowed / 2})[0], precision, steps=SHORT)[0] == GRAPHED
    assert choose(trials(times, {GRAPHED: float("nan")})[0], precision, steps=SHORT)[0] == EAGER


def test_whatever_goes_wrong_the_run_goes_on() -> None:
    trial, _ = trials({EAGER: 2e-3, GRAPHED: RuntimeError("no\ncapture"), COMPILED: OSError("no compiler")})
    assert choose(trial, "bf16", steps=LONG) == (
        EAGER,
        "eager 2 ms a pass, graphed does not work here (RuntimeError: no capture), "
        "compiled does not work here (OSError: no compiler)",
    )


def test_a_run_that_began_with_graphs_keeps_them_while_they_work() -> None:
    slow, _ = trials({EAGER: 1e-3, GRAPHED: 2e-3})
    assert choose(slow, "float32", steps=LONG, earlier=GRAPHED) == (GRAPHED, "this run began with it")
    broken, tried = trials({EAGER: 1e-3, GRAPHED: RuntimeError()})
    assert choose(broken, "float32", steps=LONG, earlier=GRAPHED)[0] == EAGER
    assert tried == [EAGER, GRAPHED]


def student() -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_1"},
            "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 16},
        }
    )
    return build_pair(spec, channels=1, size=8).student


def test_a_trial_does_not_fall_back_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any) -> Any:
        raise RuntimeError("operation not permitted")

    way = functools.partial(GraphedNetwork, capture=refused)
    monkeypatch.setattr(pass_choice, "WAYS", {**pass_choice.WAYS, GRAPHED: way})
    trial = functools.partial(try_out, network=student(), views=(torch.ones(4, 1, 8, 8),), precision="float32")
    name, why = choose(trial, "float32", steps=SHORT)
    assert name == EAGER
    assert "graphed does not work here" in why
    assert "operation not permitted" in why


def test_a_trial_is_of_the_way_the_precision_and_the_gradient_before_the_wide_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)
    graphs, sizes = Graphs(), []

    def graphed(network: Network, batch_size: int) -> Network:
        sizes.append(batch_size)
        return GraphedNetwork(network, batch_size, capture=graphs)

    monkeypatch.setattr(pass_choice, "WAYS", {**pass_choice.WAYS, GRAPHED: graphed})
    network = student()
    eager, other, bf16 = (
        try_out(way, network, views, precision)
        for way, precision in ((EAGER, "float32"), (GRAPHED, "float32"), (EAGER, "bf16"))
    )
    assert (sizes, graphs.replays) == ([4], 2 + pass_choice.ROUNDS)
    assert min(eager.seconds, other.seconds) > 0
    last = sum(each.numel() for each in network.projector.last.parameters())
    assert len(eager.gradient) == sum(each.numel() for each in network.parameters()) - last
    assert torch.equal(other.gradient, eager.gradient)
    assert all(each.grad is None for each in network.parameters())
    off = float((bf16.gradient - eager.gradient).norm() / eager.gradient.norm())
    assert 1e-5 < off < 0.1
