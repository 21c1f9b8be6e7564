"""The benchmarks run through: all questions of the GPU one on a CPU, at a size that says nothing about speed."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUESTIONS = ("full run", "fidelity", "packing", "waits", "compiled steps")
PARTS = {"encoder", "projector + wide output", "optimiser", "probes of the student", "loading", "logging"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the GPU's script says at toy size; it would end with an error if Ray or FFCV were imported."""
    out = tmp_path_factory.mktemp("gpu") / "toy.json"
    code = (
        "import runpy, sys; sys.modules['ray'] = sys.modules['ffcv'] = None; sys.path.insert(0, sys.argv[1]);"
        "sys.argv = ['gpu.py', '--size', 'toy', '--device', 'cpu', '--out', *sys.argv[2:]];"
        "runpy.run_path(sys.path[0] + '/gpu.py', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, BENCHMARKS, out, "--only", *QUESTIONS], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_question_is_answered_on_a_machine_without_a_gpu(answers: dict[str, Any]) -> None:
    assert answers.keys() >= set(QUESTIONS)
    parts = {**answers, **answers["compiled steps"], **answers["full run"]["rt-scale"]}
    assert not [name for name, found in parts.items() if isinstance(found, dict) and "failed" in found], answers
    assert all("median" in found for name, found in answers["compiled steps"].items() if name != "took")
    assert "machine" in answers
    assert answers["size"] == "toy"


def test_ratios_are_those_of_the_times_beside_them(answers: dict[str, Any]) -> None:
    full = answers["full run"]
    theirs = full["paper-style"]
    assert theirs["full run"] > 100 * theirs["training"] > 0
    for ours in full["rt-scale"].values():
        assert ours["ratio"] == pytest.approx(theirs["full run"] / ours["full run"])
        assert ours["full run"] > 99 * ours["epoch"]
        assert len(ours["epochs"]) == 2


def test_parts_add_up_to_a_run_and_stand_beside_their_floors(answers: dict[str, Any]) -> None:
    for ours in answers["full run"]["rt-scale"].values():
        rows = {row["part"]: row for row in ours["parts"]}
        whole = rows.pop("the whole run")
        step = rows.pop("all of the step")
        assert rows.keys() >= PARTS
        assert sum(row["seconds"] for row in rows.values()) == pytest.approx(whole["seconds"])
        assert 0 < step["seconds"] < whole["seconds"]
        assert whole["seconds"] >= sum(ours["epochs"])
        for row in rows.values():
            assert row["ratio"] is None or row["ratio"] == pytest.approx(row["seconds"] / row["floor"])
        assert rows["encoder"]["floor"] > 0


def test_precisions_agree_at_the_start_that_they_share(answers: dict[str, Any]) -> None:
    curves = answers["fidelity"]
    assert len(curves["float32"]["train/kl"]) == 3
    assert curves["bf16"]["train/kl"] == pytest.approx(curves["float32"]["train/kl"], rel=0.2)
    assert curves["float32"]["difference"] == 0


def test_on_a_cpu_nothing_is_decided(answers: dict[str, Any]) -> None:
    assert {name: each["decision"].partition(":")[0] for name, each in answers["decisions"].items()} == {
        "accelerate default": "open", "batched students": "open", "Triton": "open",
    }  # fmt: skip
    assert answers["decisions"]["batched students"]["times as fast"]["convnet_4_1"] > 0
    assert answers["decisions"]["Triton"]["times as fast"]["float32"] > 1


@pytest.mark.parametrize(
    ("graphed", "compiled", "packed", "wide", "expected"),
    [
        (1.4, 1.0, 1.4, 0.40, ("graphs stay", "auto becomes the default, for b", "write")),
        (1.2, 1.2, 1.2, 0.20, ("none becomes the default, and graphs go", "batched networks go", "no kernel")),
        (1.2, 1.4, 1.31, 0.34, ("compile becomes", "auto becomes the default, for b", "write")),
    ],
)
def test_each_decision_has_its_threshold(
    monkeypatch: pytest.MonkeyPatch, graphed: float, compiled: float, packed: float, wide: float, expected: Any
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    decide = importlib.import_module("lib.gpu.decisions").decisions
    parts = [
        {"part": "projector + wide output", "seconds": wide, "floor": 0.1},
        {"part": "the whole run", "seconds": 1},
    ]
    runs = {"bf16": {"full run": 10.0, "parts": parts}, "bf16, none": {"full run": 10.0 * graphed},
            "bf16, compile": {"full run": 10.0 / compiled}, "tf32": {"failed": "why"}}  # fmt: skip
    packing = {"a": {"ratio": {"1": 1.0, "2": 1.1}}, "b": {"ratio": {"1": 1.0, "8": packed}}, "took": 3.0}
    answers = {"size": "full", "gpu": True, "full run": {"rt-scale": runs}, "packing": packing}
    found = [each["decision"] for each in decide(answers).values()]
    assert [text.startswith(words) for text, words in zip(found, expected, strict=True)] == [True] * 3, found
    assert {each["decision"] for each in decide({"size": "full", "gpu": True}).values()} == {
        "open: its questions were left out or failed"
    }


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script ``operations.py`` as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("operations")


def test_operations_are_counted_by_part_in_the_backward_pass_too(operations: Any) -> None:
    counting = operations.Operations()
    x = torch.arange(3.0, requires_grad=True)
    with counting:
        loss = counting.of("outside", lambda: counting.of("within", lambda: x.view(3, 1) * 2)()[1:].sum())()
        counting.of("backward", loss.backward)()
        torch.empty(3).zero_()
    assert counting.counts == {
        "within": {"mul": 1},
        "outside": {"sum": 1},
        "backward": {"ones_like": 1, "slice_backward": 1, "mul": 1},
        operations.LOADING: {"zero_": 1},
    }


def test_the_operations_of_a_step_are_the_same_at_every_count(operations: Any, tmp_path: Path) -> None:
    data = operations.write_synthetic(tmp_path, operations.STEPS * 4, 2)
    asked = argparse.Namespace(cases=["plain", "wide", "crop_flip"], batch_size=4)
    first, second = (operations.cases_of("convnet_4_2", data, asked) for _ in range(2))
    assert first == second
    plain, wide, cropped = first.values()
    assert plain[operations.BACKWARD]["convolution_backward"] == plain[operations.FORWARD]["convolution"] == 2
    assert plain[operations.MEANS] == {"stack": 1, "_to_copy": 1, "mul_": 1, "add_": 1}
    assert plain[operations.TARGETS] == {"index": 1, "mm": 1}
    assert wide[operations.OBJECTIVE]["mm"] == 2 * operations.WIDE_TILES
    assert operations.DRAWS not in plain.keys() | wide.keys()
    assert cropped[operations.DRAWS]["rand"] == 1
