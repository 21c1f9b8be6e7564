"""One spec run by several processes is the same run: numbers, directory, resumption."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network
from rt_scale.spec.document import resolve_same, set_dotted
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from rt_scale.training.distributed import Group
from tests.distributed import Ranks
from tests.integration.dying import outcome

SPEC: dict[str, Any] = {
    "data": {"name": "digits", "samples": 97},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "student": {"alpha": 0.5},
    "train": {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 0.01}},
    "probe": {"every": "1ep", "knn": 5, "epochs": 2, "batch_size": 32, "lr": 0.01, "statistics": True},
    "precision": "float64",
}
"""Batches of 32, 32, 32 and 1: one of two workers has no share of the last."""

CENTRED = {
    "teacher": {"update": "ema", "momentum": 0.9, "mode": "train", "statistics": "data", "center": 0.9,
                "temperature": 0.5},
    "student": {"alpha": 0.5, "center": 0.5, "temperature": 0.7},
    "augment": {"kind": "multicrop", "local_views": 2, "global_size": 8, "local_size": 4},
    "objective.pairing": "opposite",
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 2),
    "centred, averaged teacher, multi-crop": (CENTRED, 2),
    # With momentum, not Adam: a bias before a batch norm has a gradient of rounding alone, which Adam makes a step of.
    "batch norms without positions": (
        {"projector.batch_norm": True, "data.samples": 98, "train.optimizer": {"name": "sgd", "lr": 0.01}}, 3,
    ),
    "teacher an epoch behind, crops": (
        {"teacher": {"update": "previous_epoch", "statistics": "student"}, "augment": {"kind": "crop_flip"}}, 2,
    ),
    "two teachers of twice the width": (
        {"teacher": {"width": 2.0, "count": 2}, "student": {"alpha": 1}, "probe.statistics": False}, 2,
    ),
    "labels with noise": ({"kind": "supervise", "projector.out_dim": 10, "objective.label_noise": 0.3}, 2),
    "noise inputs, other probes": (
        {"data": {"name": "gaussian", "size": 8, "samples": 97, "channels": 1}, "probe.also": ["digits"],
         "probe.statistics": False}, 2,
    ),
    "from another run's state": (
        {"student": {"start_from": {"run": {"same_but": {"train": {"stop": "6it"}}}, "take": "state"}}}, 2,
    ),
    "pruned and rewound": (
        {"kind": "supervise", "projector.out_dim": 10, "projector.parts": "-/lb/fn/-/l/-",
         "train.optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "clip": 0.5},
         "prune": {"round": 1, "rewind": "6it"}}, 2,
    ),
    "after another run": ({"student": {"start_from": {"run": {"same_but": {"train": {"epochs": 1}}}}}}, 2),
}  # fmt: skip


def make(changes: dict[str, Any]) -> RunSpec:
    document = SPEC
    for key, value in changes.items():
        document = set_dotted(document, key, value)
    return RunSpec.model_validate(resolve_same(document))


class Deadly(Silent):
    """Kills its process, as nothing else can be caught, when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def compute(
    group: Group, spec: dict[str, Any], store: Path, data_dir: Path, dies: tuple[int, int] | None = None
) -> str:
    """Run ``spec``; ``dies`` is the rank and the step of a death."""
    observer = Deadly(dies[1]) if dies and dies[0] == group.rank else Silent()
    settings = Options(
        store=Store(store), data_dir=data_dir, device="cpu", threads=1, group=group, observer=observer,
        checkpoint_seconds=0,
    )  # fmt: skip
    try:
        return run(RunSpec.model_validate(spec), settings).model_dump_json()
    except InputError as error:
        return str(error)


def results(ranks: Ranks) -> list[RunResult]:
    """What each rank returned."""
    return [RunResult.model_validate_json(text) for text in ranks.results()]


def alone(spec: RunSpec, store: Path, data_dir: Path) -> RunResult:
    return run(spec, Options(store=Store(store), data_dir=data_dir, device="cpu", threads=1))


def files(folder: Path) -> set[str]:
    """Every file of a run directory, by what does not depend on when it was written."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(name) for name in names if not name.name.startswith("events")}


def tolerance(name: str) -> float:
    """Embeddings are kept in float32 at every precision, and with them what is said of their distribution."""
    return 1e-6 if name.startswith("features/") else 1e-9


@pytest.mark.parametrize("case", CASES)
def test_workers_together_give_the_result_of_one(tmp_path: Path, data_dir: Path, case: str) -> None:
    changes, workers = CASES[case]
    spec = make(changes)
    result = alone(spec, tmp_path / "one", data_dir)
    given = (spec.model_dump(mode="json"), tmp_path / "several", data_dir)
    told = [
        RunResult.model_validate_json(text) for text in Ranks(tmp_path / "ranks", workers, compute, *given).results()
    ]

    one, several = (Store(tmp_path / name).run(spec) for name in ("one", "several"))
    assert several.name == one.name
    assert told == [several.result()] * workers
    for name, value in result.last.items():
        assert told[0].last[name] == pytest.approx(value, abs=1e-9, rel=tolerance(name)), name
    assert (told[0].steps, told[0].epochs) == (result.steps, result.epochs)
    own, expected = (read_metrics(each.metrics_path).drop_columns("time").to_pylist() for each in (several, one))
    assert len(own) == len(expected)
    for row, other in zip(own, expected, strict=True):
        assert row.pop("value") == pytest.approx(other.pop("value"), abs=1e-9, rel=tolerance(row["name"]))
        assert row == other
    assert files(several.path) == files(one.path)
    for path in one.path.glob("checkpoints/*/*.safetensors"):
        found, wanted = (load_file(each) for each in (several.path / path.relative_to(one.path), path))
        assert_close(found, wanted, rtol=0, atol=1e-9)
    environment = several.record()
    assert environment is not None
    assert environment.execution.workers == workers
    assert [(each.workers, each.threads) for each in environment.attempts] == [(workers, 1)]


def test_a_finished_run_is_read_by_all(tmp_path: Path, data_dir: Path) -> None:
    spec = make({"train.epochs": 1})
    result = alone(spec, tmp_path / "store", data_dir)
    given = (spec.model_dump(mode="json"), tmp_path / "store", data_dir)
    assert results(Ranks(tmp_path / "ranks", 2, compute, *given)) == [result] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_is_killed_ends_all_and_the_run_goes_on(tmp_path: Path, data_dir: Path, rank: int) -> None:
    spec = make(CENTRED)
    given = spec.model_dump(mode="json")
    undisturbed, disturbed = (Store(tmp_path / name).run(spec) for name in ("undisturbed", "disturbed"))
    Ranks(tmp_path / "first", 2, compute, given, tmp_path / "undisturbed", data_dir).results()

    killed = Ranks(tmp_path / "killed", 2, compute, given, tmp_path / "disturbed", data_dir, (rank, 6))
    codes = killed.wait()
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] == 1
    assert killed.errors()[1 - rank].startswith("WorkerLost")
    assert disturbed.status().state == "partial"  # what happened to a worker is no fault of the run
    assert disturbed.checkpoints.steps()[-1] == 4

    Ranks(tmp_path / "again", 2, compute, given, tmp_path / "disturbed", data_dir).results()
    assert outcome(disturbed) == outcome(undisturbed)
    assert disturbed.status().attempts == 2


def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path, data_dir: Path) -> None:
    spec = make({})
    given = spec.model_dump(mode="json")
    Ranks(tmp_path / "killed", 2, compute, given, tmp_path / "several", data_dir, (1, 6)).wait()
    found = alone(spec, tmp_path / "several", data_dir)
    for name, value in alone(spec, tmp_path / "one", data_dir).last.items():
        assert found.last[name] == pytest.approx(value, abs=1e-9, rel=tolerance(name)), name
    environment = Store(tmp_path / "several").run(spec).record()
    assert environment is not None
    assert [each.workers for each in environment.attempts] == [2, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.batch_size": 1}, "2 workers were asked for, but train.batch_size is 1"),
        ({"data.samples": 2000}, "data.samples is 2000"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_is_written(
    tmp_path: Path, data_dir: Path, changes: dict[str, Any], said: str
) -> None:
    spec = make(changes)
    given = (spec.model_dump(mode="json"), tmp_path / "store", data_dir)
    first, _ = Ranks(tmp_path / "ranks", 2, compute, *given).results()
    assert said in first
    assert not Store(tmp_path / "store").run(spec).path.exists()


def test_a_diverging_run_ends_every_worker_in_words(tmp_path: Path, data_dir: Path) -> None:
    spec = make({"train.optimizer": {"name": "sgd", "lr": 1e300}, "encoder.norm": "none"})
    ranks = Ranks(tmp_path / "ranks", 2, compute, spec.model_dump(mode="json"), tmp_path / "store", data_dir)
    assert ranks.wait() == [1, 1]
    assert all("training diverged" in told for told in ranks.errors())
    assert Store(tmp_path / "store").run(spec).status().state == "failed"


def fails(group: Group, spec: dict[str, Any], store: Path, data_dir: Path) -> str:
    """Run ``spec``; the student's pass of the last rank has no memory from the second step on."""
    passed: list[int] = []
    logits = Network.of_views

    def short(network: Network, views: Any) -> Any:
        passed.append(1)
        if group.rank == group.world - 1 and len(passed) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return logits(network, views)

    with patch.object(Network, "of_views", short):
        return compute(group, spec, store, data_dir)


def test_what_fails_on_one_worker_alone_is_told_with_its_reason(tmp_path: Path, data_dir: Path) -> None:
    spec = make({"teacher.update": "ema"})
    ranks = Ranks(tmp_path / "ranks", 2, fails, spec.model_dump(mode="json"), tmp_path / "store", data_dir)
    assert ranks.wait() == [1, 1]
    told = ranks.errors()
    assert f"Worker 1: Run {spec.name} ran out of memory" in told[1]
    assert "WorkerLost" in told[0]
    run_dir = Store(tmp_path / "store").run(spec)
    assert (run_dir.status().state, run_dir.failure()) == ("partial", None)  # rank 0 can go on


class Asks:
    """Says that the run is to stop from the n-th time on that it is asked; how often it was."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def __call__(self) -> bool:
        self.count += 1
        return self.count >= self.number


def stopped_and_gone_on_with(
    group: Group, spec: dict[str, Any], folder: Path, data_dir: Path, moments: list[tuple[int, int]]
) -> list[int]:
    """Run ``spec`` for every (rank, number): stopped as that rank is asked for that time, then to its end."""
    asked = []
    for rank, number in moments:
        given: dict[str, Any] = {"store": Store(folder / f"{rank}-{number}"), "data_dir": data_dir, "device": "cpu"}
        stop = Asks(number if rank == group.rank else 1_000_000)
        how = {**given, "threads": 1, "group": group, "checkpoint_seconds": 0}
        with contextlib.suppress(Stopped):
            run(RunSpec.model_validate(spec), Options(**how, stop=stop))
        asked.append(stop.count)
        run(RunSpec.model_validate(spec), Options(**how))
    return asked


def test_all_workers_leave_together_wherever_one_is_asked_to_stop(tmp_path: Path, data_dir: Path) -> None:
    """In embeddings, in classifiers that rank 0 trains alone, in the teacher's features, between steps."""
    spec = make({"train.epochs": 2, "teacher": {"update": "none"}})
    given = spec.model_dump(mode="json")
    never = 1_000_000
    moments = [(0, never), (0, 3), (1, 3), (0, 20), (1, 20), (0, 45), (1, 45), (0, 70), (1, 60)]
    counts = Ranks(
        tmp_path / "ranks", 2, stopped_and_gone_on_with, given, tmp_path / "runs", data_dir, moments
    ).results()  # fmt: skip
    undisturbed = outcome(Store(tmp_path / "runs" / f"0-{never}").run(spec))
    for place, (rank, number) in enumerate(moments[1:], start=1):
        assert counts[rank][place] == number  # it stopped at once
        run_dir = Store(tmp_path / "runs" / f"{rank}-{number}").run(spec)
        assert outcome(run_dir) == undisturbed
        assert run_dir.status().attempts == 2
