"""How a student's pass is computed is decided once a run, on its device, and kept; no number depends on it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments import student_pass
from rt_scale.experiments.options import Options, ResolvedOptions
from rt_scale.experiments.runner import run
from rt_scale.experiments.student_pass import decided, dressed, example_views
from rt_scale.models.networks import Network
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import Execution
from rt_scale.store.store import Store
from rt_scale.training.accelerate.choice import EAGER, GRAPHED
from rt_scale.training.accelerate.graphed import GraphedNetwork
from rt_scale.training.loop import Stopped
from tests.records import EXECUTION
from tests.unit.training.accelerate.graphs import Graphs

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
ON_CPU = ResolvedOptions(torch.device("cpu"), 1, True, True, "map", "asked for")
ON_GPU = dataclasses.replace(ON_CPU, device=torch.device("cuda"))
BEGAN = "this run began with it"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a choice on a GPU is asked, which says graphed; networks and views stay on the CPU."""
    calls: list[dict[str, Any]] = []

    def choose(trial: functools.partial[Any], precision: str, **given: Any) -> tuple[str, str]:
        calls.append({"precision": precision, **trial.keywords, **given})
        return GRAPHED, "it is faster"

    views = example_views
    monkeypatch.setattr(student_pass, "choose", choose)
    monkeypatch.setattr(student_pass, "to_device", lambda network, *given, **named: network)
    monkeypatch.setattr(student_pass, "example_views", lambda spec, info, _: views(spec, info, ON_CPU))
    return calls


@pytest.mark.parametrize(
    ("execution", "wanted", "earlier", "expected"),
    [
        ({}, {}, None, (EAGER, "graphs are for NVIDIA GPUs, and a CPU's kernels are not faster compiled")),
        ({}, {"compile": True}, None, ("compiled", "it was asked for")),
        ({}, {"compile": True}, EAGER, (EAGER, BEGAN)),
        ({}, {"compile": False}, "compiled", ("compiled", BEGAN)),
        ({}, {}, GRAPHED, (EAGER, "graphs are for NVIDIA GPUs, and a CPU's kernels are not faster compiled")),
        ({"workers": 2}, {}, "compiled", (EAGER, "this student is not computed alone")),
        ({"pack": 2}, {"compile": True}, None, (EAGER, "this student is not computed alone")),
    ],
)
def test_on_a_cpu(
    tiny: Tiny,
    settings: Make,
    digits: Prepared,
    execution: dict[str, Any],
    wanted: dict[str, Any],
    earlier: str | None,
    expected: tuple[str, str],
) -> None:
    before = dataclasses.replace(ON_CPU, **execution)
    record = earlier and dataclasses.replace(before, student_pass=earlier).record()
    found = decided(tiny(), digits, before, settings(**wanted), record or None)
    assert (found.student_pass, found.student_pass_reason) == expected
    assert dataclasses.replace(found, student_pass=EAGER, student_pass_reason="") == before


def test_a_run_that_began_without_the_choice_goes_on_eagerly(
    tiny: Tiny, settings: Make, digits: Prepared, asked: list[dict[str, Any]]
) -> None:
    found = decided(tiny(), digits, ON_GPU, settings(), Execution(**EXECUTION))
    assert (found.student_pass, found.student_pass_reason, asked) == (EAGER, BEGAN, [])


def test_on_a_gpu_the_run_is_tried_out(
    tiny: Tiny, settings: Make, digits: Prepared, asked: list[dict[str, Any]]
) -> None:
    spec = tiny({"train.batch_size": 20, "train.epochs": 7, "data.samples": 50, "precision": "bf16"})
    found = decided(spec, digits, ON_GPU, settings(), None)
    assert (found.student_pass, found.student_pass_reason) == (GRAPHED, "it is faster")
    (call,) = asked
    assert (call["precision"], call["steps"], call["compiling"], call["earlier"]) == ("bf16", 21, True, None)
    assert [view.shape for view in call["views"]] == [(20, 1, 8, 8)]
    assert call["network"].encoder.embed_dim == 16


@pytest.mark.parametrize(
    ("changes", "wanted", "earlier", "compiling"),
    [
        ({}, {"compile": False}, None, False),
        ({"student.alpha": 0.0}, {}, None, False),
        ({"student.alpha": 1e-10}, {}, GRAPHED, True),
    ],
)
def test_compiling_is_left_out_where_it_is_not_wanted_or_the_student_is_its_teacher(
    tiny: Tiny,
    settings: Make,
    digits: Prepared,
    asked: list[dict[str, Any]],
    changes: dict[str, Any],
    wanted: dict[str, Any],
    earlier: str | None,
    compiling: bool,
) -> None:
    record = earlier and dataclasses.replace(ON_GPU, student_pass=earlier).record()
    decided(tiny(changes), digits, ON_GPU, settings(**wanted), record or None)
    assert (asked[0]["compiling"], asked[0]["earlier"]) == (compiling, earlier)


def test_a_shape_is_tried_once_a_process(
    tiny: Tiny, settings: Make, digits: Prepared, asked: list[dict[str, Any]]
) -> None:
    def choose_for(changes: dict[str, Any], execution: ResolvedOptions = ON_GPU, **wanted: Any) -> None:
        assert decided(tiny(changes), digits, execution, settings(**wanted), None).student_pass == GRAPHED

    same: list[dict[str, Any]] = [{}, {"seeds.student": 5}, {"student.alpha": 0.1}, {"train.optimizer.lr": 0.5}]
    for changes in same:
        choose_for(changes)
    assert len(asked) == 1
    others: list[dict[str, Any]] = [
        {"train.batch_size": 16}, {"precision": "bf16"}, {"projector.bottleneck": 4}, {"encoder.norm": "batch"},
        {"train.epochs": 9}, {"student.alpha": 0.0},
    ]  # fmt: skip
    for changes in others:
        choose_for(changes)
    choose_for({}, dataclasses.replace(ON_GPU, channels_last=False))
    choose_for({}, dataclasses.replace(ON_GPU, device=torch.device("cuda:1")))
    choose_for({}, compile=False)
    assert len(asked) == 1 + len(others) + 2  # not to compile is what alpha = 0 asks for, too


def test_without_a_whole_batch_there_is_nothing_to_graph(
    tiny: Tiny, settings: Make, digits: Prepared, asked: list[dict[str, Any]]
) -> None:
    spec = tiny({"train.batch_size": 61, "data.samples": 60})
    assert decided(spec, digits, ON_GPU, settings(), None).student_pass_reason == "no batch is whole"
    assert not asked


def test_views_are_those_of_a_whole_batch(tiny: Tiny, digits: Prepared) -> None:
    augment = {"kind": "multicrop", "global_size": 8, "local_size": 4, "local_views": 3}
    spec = tiny({"augment": augment, "objective.pairing": "opposite"})
    for layout in (True, False):
        execution = dataclasses.replace(ON_CPU, channels_last=layout)
        views = example_views(spec, digits.info, execution)
        assert [view.shape[2] for view in views] == [8, 8, 4, 4, 4]
        assert {(len(view), view.dtype) for view in views} == {(32, torch.float32)}
        assert all(0.8 < float(view.std()) < 1.2 for view in views)
    assert example_views(tiny({"precision": "float64"}), digits.info, ON_CPU)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment": {"kind": "multicrop", "global_size": 8, "local_size": 4}, "objective.pairing": "opposite"},
        {"kind": "supervise", "projector.out_dim": 10},
    ],
    ids=["distil", "multi-crop", "supervise"],
)
def test_a_run_with_graphs_is_the_run_without_also_where_it_was_stopped(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    spec, graphs = tiny({"encoder.norm": "batch", "data.samples": 70, **changes}), Graphs()
    plain = run(spec, settings(store=Store(tmp_path / "plain")))

    def chosen(spec: RunSpec, data: Any, execution: ResolvedOptions, *rest: Any) -> ResolvedOptions:
        return dataclasses.replace(execution, student_pass=GRAPHED)

    def graphed(network: Network, batch_size: int) -> Network:
        return GraphedNetwork(network, batch_size, capture=graphs)

    monkeypatch.setattr(student_pass, "decided", chosen)
    monkeypatch.setattr(student_pass, "WAYS", {GRAPHED: graphed})
    with pytest.raises(Stopped):
        run(spec, settings(observer=seen, stop=lambda: len(seen.named("stepped")) >= 3))
    assert run(spec, settings()).last == plain.last
    # 2 of 3 batches of an epoch are whole.
    assert (len(graphs.captured), graphs.replays) == (2, 4)


def test_a_pack_is_compared_with_a_run_alone_as_it_goes(tiny: Tiny) -> None:
    execution = dataclasses.replace(ON_CPU, student_pass=GRAPHED)
    network = torch.nn.Module()
    network.encoder, network.projector = torch.nn.Flatten(), torch.nn.Identity()
    model = dressed(network, 5, execution)  # type: ignore[arg-type]
    assert isinstance(model, GraphedNetwork)
    assert model.batch_size == 5
    assert dressed(network, 5, ON_CPU) is network  # type: ignore[arg-type]
