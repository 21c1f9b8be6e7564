"""Steps that no CUDA graph replays: said in the run's record and to its observer. No GPU is needed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepared import Prepared
from rt_scale.experiments import student_pass
from rt_scale.experiments.context import Context, Follower
from rt_scale.experiments.options import Options, ResolvedOptions
from rt_scale.experiments.plain_steps import tell_of_plain_steps
from rt_scale.experiments.runner import run
from rt_scale.probes import linear
from rt_scale.probes.evaluator import Prober
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.training.accelerate.choice import GRAPHED
from rt_scale.training.accelerate.graphed import GraphedNetwork

REASON = "its capture failed (no memory for the graph)"


def refusing(*of_what: Any) -> Any:
    raise RuntimeError("no memory for the graph\nand more")


def faithful(step: linear.Step, rows: torch.Tensor) -> linear.Step:
    return step


@pytest.fixture
def prober(tiny: Callable[..., RunSpec], digits: Prepared, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prober]:
    """One that has probed, as on a GPU whose capture is the given stand-in."""

    def probed(capture: Any) -> Prober:
        monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
        monkeypatch.setattr(linear, "replayed", capture)
        train, test = (
            ResidentLoader(part, batch_size=64, seed=0, device="cpu", subset=torch.arange(200).numpy())
            for part in (digits.train, digits.test)
        )
        made = Prober(tiny().probe, train, test, lambda images: images.float().permute(0, 3, 1, 2), classes=10)
        made.probe_input(0)
        return made

    return probed


def context(kind: type[Context], run_dir: RunDir, seen: Any) -> Context:
    execution = ResolvedOptions(torch.device("cpu"), 1, True, True, "resident", "asked for")
    return kind(run_dir, execution, seen, 30.0, 120.0, MetricsTable(run_dir.metrics_path), hparams={})


def test_a_probe_without_its_graph_is_recorded_and_warned_of_once(
    prober: Callable[..., Prober], tmp_path: Path, seen: Any
) -> None:
    run_dir = RunDir(tmp_path / "distill-0000000000000000")
    probers = {None: prober(refusing), "cifar10": prober(faithful), "svhn": prober(refusing)}
    with run_dir.acquire():
        run_dir.write_environment({"data": {}, "attempts": [{"host": "a"}, {"host": "b"}]})
        attempt = context(Context, run_dir, seen)
        for _ in range(2):
            tell_of_plain_steps(attempt, nn.Identity(), probers)
    slower = {"linear probe": REASON, "linear probe on svhn": REASON}
    assert run_dir.environment() == {"data": {}, "attempts": [{"host": "a"}, {"host": "b", "slower": slower}]}
    assert [text for (text,) in seen.named("warned")] == [
        f"The {part} takes longer than it should, as {REASON}. It changes no number." for part in slower
    ]


def test_a_probe_that_is_done_as_meant_is_not_spoken_of(
    prober: Callable[..., Prober], tmp_path: Path, seen: Any
) -> None:
    run_dir = RunDir(tmp_path / "distill-0000000000000000")
    with run_dir.acquire():
        tell_of_plain_steps(context(Context, run_dir, seen), nn.Identity(), {None: prober(faithful)})
    assert run_dir.environment() is None
    assert seen.calls == []


def test_the_record_is_that_of_the_first_rank(tmp_path: Path, seen: Any) -> None:
    run_dir = RunDir(tmp_path / "distill-0000000000000000")
    context(Follower, run_dir, seen).note("slower", "linear probe", REASON)
    assert run_dir.environment() is None


def test_a_run_tells_of_it(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
    monkeypatch.setattr(linear, "replayed", refusing)
    given = settings(observer=seen)
    run(tiny({"probe.batch_size": 8}), given)
    environment = given.store.run(tiny({"probe.batch_size": 8})).environment()
    assert environment is not None
    assert environment["attempts"][-1]["slower"] == {"linear probe": REASON}
    assert len(seen.named("warned")) == 1


def test_a_run_tells_of_its_students_pass(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(spec: RunSpec, data: Any, execution: ResolvedOptions, *rest: Any) -> ResolvedOptions:
        return dataclasses.replace(execution, student_pass=GRAPHED)

    way = functools.partial(GraphedNetwork, capture=refusing)
    monkeypatch.setattr(student_pass, "decided", chosen)
    monkeypatch.setattr(student_pass, "WAYS", {GRAPHED: way})
    given = settings(observer=seen)
    run(tiny(), given)
    environment = given.store.run(tiny()).environment()
    assert environment is not None
    assert environment["attempts"][-1]["slower"] == {"student's pass": REASON}
    assert len(seen.named("warned")) == 1
