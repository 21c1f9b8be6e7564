"""The graph of a step, with stand-ins for CUDA's capture: no GPU is needed, and CUDA itself is not tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.probes.graphed import WARM_UP, GraphedStep
from rt_scale.probes.linear import BatchedClassifiers, Problem, Sizes

FULL = 8


def problems() -> list[Problem]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (100,), generator=generator)
    return [Problem(torch.randn(100, 4, generator=generator), y, seed) for seed in (0, 1)]


def batched() -> BatchedClassifiers:
    made = BatchedClassifiers(Sizes.of(problems(), 3, views=2), lr=1e-2)
    made.load(problems(), [torch.linspace(-0.5, 0.5, 15)] * 2)
    return made


def batches(machine: BatchedClassifiers) -> list[Tensor]:
    """An epoch of full batches with a smaller one at its end, twice."""
    order = torch.stack([torch.randperm(100, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    return [*machine.rows_of(list(order)).split(FULL, dim=1)] * 2


def faithful(work: Callable[[], None]) -> Callable[[], None]:
    """As a capture does it: nothing is done now, and all of it at every replay."""
    return work


def refusing(work: Callable[[], None]) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nmore detail")


def wrong(work: Callable[[], None]) -> Callable[[], None]:
    def replay() -> None:
        work()
        work()

    return replay


def run(capture: Any) -> tuple[list[Tensor], GraphedStep, list[tuple[int, ...]]]:
    """State after all batches, the step, and the shapes of the batches in the order of their calls."""
    machine, calls = batched(), []

    def step(index: Tensor) -> None:
        calls.append((index.data_ptr(), *index.shape))
        machine.step(index)

    graphed = GraphedStep(step, (2, FULL), machine.state, capture)
    for index in batches(machine):
        graphed(index)
    return machine.state(), graphed, calls


def plain() -> list[Tensor]:
    machine = batched()
    for index in batches(machine):
        machine.step(index)
    return machine.state()


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(a, b, strict=True))


def test_replayed_steps_are_the_plain_ones() -> None:
    state, graphed, calls = run(faithful)
    assert same(state, plain())
    assert graphed.plain_because is None
    full = [pointer for pointer, _, size in calls if size == FULL]
    # After the warm-up and the one that the first replay is checked against, all read one buffer.
    assert len(set(full[: WARM_UP + 1])) == WARM_UP + 1
    assert len(set(full[WARM_UP + 1 :])) == 1
    assert len(full) == 2 * (100 // FULL) + 1
    assert sum(size != FULL for _, _, size in calls) == 2


def test_without_a_gpu_nothing_is_captured() -> None:
    state, graphed, calls = run(None)
    assert same(state, plain())
    assert graphed.plain_because is None
    assert len(calls) == 2 * (100 // FULL + 1)


@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (refusing, "its capture failed (operation not permitted when stream is capturing)"),
        (wrong, "its first replay differed from the plain step"),
        (lambda work: lambda: None, "its first replay differed from the plain step"),
    ],
)
def test_where_it_does_not_work_steps_stay_plain_and_the_reason_is_kept(capture: Any, reason: str) -> None:
    state, graphed, _ = run(capture)
    assert same(state, plain())
    assert graphed.plain_because == reason


def test_a_graph_serves_the_next_problems_too() -> None:
    machine = batched()
    graphed = GraphedStep(machine.step, (2, FULL), machine.state, faithful)
    for index in batches(machine):
        graphed(index)
    machine.load(problems(), [torch.linspace(-0.5, 0.5, 15)] * 2)
    for index in batches(machine):
        graphed(index)
    assert same(machine.state(), plain())
