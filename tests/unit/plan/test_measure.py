"""How fast a device is found to be, and short runs that are timed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.catalogue import DATASETS
from rt_scale.plan import measure as module
from rt_scale.plan.measure import Calibration, Clock, ShortRunTimes, short_run, start_seconds, time_short_run
from rt_scale.spec.run import RunSpec
from tests.unit.plan.estimating import spec


def test_a_run_by_its_parts() -> None:
    """Three epochs of four steps of 2 s; 1 s between epochs, 5 s more with a probing; 7 s at the start, 10 s before."""
    step, between, probing = 2.0, 1.0, 5.0
    turn = between + step
    passed = [step] * 4 + [turn] + [step] * 3 + [turn + probing] + [step] * 3
    total = 17.0 + sum(passed) + between + probing
    found = module._by_part(passed, total)
    assert (found.epoch, found.probing) == (4 * step + between, probing)
    assert found.seconds(3, 3) == pytest.approx(total)
    assert found.seconds(10, 6) == pytest.approx(total + 7 * (4 * step + between) + 3 * probing)


def test_epochs_of_one_step() -> None:
    found = module._by_part([1.0, 3.0, 8.0], 20.0)
    assert (found.epoch, found.probing) == (3.0, 5.0)
    assert found.seconds(3, 3) == pytest.approx(20.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train__epochs": 100, "train__optimizer": {"lr": "linear(0, 5e-4, 10ep) + cosine(5e-4, 1e-6)"}},
        {"train__freeze_last": "5ep", "probe__every": "20ep", "teacher__update": "ema"},
        {"teacher__start_from": {"run": "same"}},
    ],
    ids=["plain", "warm-up", "longer parts", "another run first"],
)
def test_a_short_run_costs_the_same_a_step(changes: dict[str, Any]) -> None:
    """Schedules and starts, which cost nothing and may not fit into it, are left out."""
    given = {key: value for key, value in changes.items() if key != "teacher__start_from"}
    run = spec(**given)
    if "teacher__start_from" in changes:
        run = spec(teacher__start_from={"run": spec().model_dump(mode="json")})
    short = short_run(run)
    assert short is not None
    assert short.shape == run.shape
    assert (short.train.epochs, short.probe.every, short.starts) == (3, "2ep", ())


TINY: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 8},
    "train": {"epochs": 50, "batch_size": 30},
    "probe": {"every": "1ep", "epochs": 1, "knn": 5},
}


def test_a_short_run_is_executed_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = torch.get_num_threads()
    found = time_short_run(RunSpec.model_validate(TINY), tmp_path / "data", before + 1)
    assert isinstance(found, ShortRunTimes)
    assert min(found.fixed, found.epoch, found.total) > 0
    assert found.seconds(3, 3) == pytest.approx(found.total)
    assert torch.get_num_threads() == before
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_not_here_makes_no_short_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would fetch it from where it is told; a plan fetches nothing."""
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", str(tmp_path / "origin"))
    monkeypatch.setattr(module, "run", lambda *given: pytest.fail("it was started"))
    run = RunSpec.model_validate({**TINY, "data": {"name": "cifar10"}})
    assert time_short_run(run, tmp_path / "data", 1) is None
    assert not (tmp_path / "data").exists()


def test_a_clock_counts_what_this_process_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 s by the clock it computed 4; two threads that computed for 3 s used 6."""
    wall, cpu = iter([0.0, 10.0, 13.0]), iter([0.0, 4.0, 10.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(module.time, "process_time", lambda: next(cpu))
    clock = Clock()
    assert (clock.look(), clock.look(), clock.total) == (4.0, 3.0, 7.0)


def test_of_another_device_the_clock_is_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = iter([0.0, 10.0]), iter([0.0, 0.1])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(module.time, "process_time", lambda: next(cpu))
    assert Clock(by_wall=True).look() == 10.0


def test_a_start_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that computes, in place of one that imports all that a run needs."""
    monkeypatch.setattr(module, "IMPORTS", "sum(range(3_000_000))")
    before = os.times()
    seconds = start_seconds()
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert 0 < seconds <= module.STARTS * used + 1e-6


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "TRAFFIC", (8, 8, 8, 8))
    monkeypatch.setattr(module, "PRODUCT", (8, 8, 8))


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
    rates = Calibration(torch.device("cpu"), others).rates(spec(precision=precision), DATASETS["digits"])
    assert min(rates.network, rates.product, rates.traffic, rates.call) > 0
    assert not rates.overlaps
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
    calibration = Calibration(torch.device("cpu"), 1)
    calibration.rates(spec(), DATASETS["digits"])
    assert max(seen) == 256
    seen.clear()
    monkeypatch.setitem(module.MOST_FLOPS, "cpu", 1e6)
    calibration.rates(spec(), DATASETS["digits"])
    assert 1 <= max(seen) < 50
