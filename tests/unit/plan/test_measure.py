"""How fast this machine is found to be."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.experiments.flops import meta_batch
from rt_scale.plan import measure as module
from rt_scale.plan.measure import measured_rates
from tests.unit.plan.estimating import spec

CPU = torch.device("cpu")


def of(run: Any) -> Any:
    return functools.partial(meta_batch, run, DATASETS["digits"])


def test_a_call_takes_what_this_process_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 s by the clock it computed 4; two threads that computed for 3 s used 6."""
    monkeypatch.setattr(module, "LEAST", 2)
    monkeypatch.setattr(module, "SECONDS", 0.0)
    wall, cpu = iter([0.0, 10.0, 10.0, 13.0]), iter([0.0, 4.0, 4.0, 10.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(module.time, "process_time", lambda: next(cpu))
    assert module._time(lambda: None, CPU) == (4.0 + 3.0) / 2


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "TRAFFIC", (8, 8, 8, 8))
    monkeypatch.setattr(module, "PRODUCT", (8, 8, 8))
    monkeypatch.setattr(module, "run_seconds", lambda device, threads: 0.25)
    module._other_rates.cache_clear()


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_rates_are_measured_on_the_runs_own_network(
    quick: None, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    seen: list[tuple[int, int, torch.dtype]] = []
    conv2d = torch.nn.functional.conv2d

    def watch(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        if x.device.type == "cpu":
            seen.append((len(x), torch.get_num_threads(), x.dtype))
        return conv2d(x, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    before = torch.get_num_threads()
    others = 1 if before > 1 else 2
    rates = measured_rates(of(spec(precision=precision)), precision, CPU, others)
    assert min(rates.network, rates.product, rates.traffic, rates.call) > 0
    assert not rates.overlaps
    assert rates.run == 0.25
    assert f"(cpu, {others} thread{'s' if others > 1 else ''})" in rates.how
    assert {(batch, threads) for batch, threads, _ in seen} == {(256, others)}
    assert seen[0][2] == (torch.float64 if precision == "float64" else torch.float32)
    assert torch.get_num_threads() == before


def test_a_large_batch_is_cut(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    conv2d = torch.nn.functional.conv2d

    def watch(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        seen.add(len(x) if x.device.type == "cpu" else 0)
        return conv2d(x, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watch)
    measured_rates(of(spec()), "float32", CPU, 1)
    assert max(seen) == 256
    seen.clear()
    monkeypatch.setitem(module.MOST_FLOPS, "cpu", 1e6)
    measured_rates(of(spec()), "float32", CPU, 1)
    assert 1 <= max(seen) < 50


def test_the_fixed_cost_of_a_run_is_that_of_a_run_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    clock = iter([0.0, 9.0, 10.0, 10.3, 20.0, 20.1, 30.0, 30.2])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))

    def watch(spec: Any, options: Any) -> None:
        ran.append((spec.train.epochs, spec.data.samples, options.device, options.threads))

    monkeypatch.setattr(module, "run", watch)
    assert module.run_seconds.__wrapped__("cpu", 2) == pytest.approx(0.2)
    assert ran == [(1, 10, "cpu", 2)] * 4


def test_a_run_of_one_step_is_executed() -> None:
    assert 0 < module.run_seconds.__wrapped__("cpu", 1) < 60
