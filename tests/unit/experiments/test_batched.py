"""Runs trained as one batched network: each in its own directory, as if it were alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from rt_scale.experiments import batched as pack_size
from rt_scale.experiments.batched import choose_batch_size, measured_batch_size, run_batched
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network
from rt_scale.spec.errors import InputError, LeasedElsewhere
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped
from rt_scale.store.results import BatchSize, RunResult
from rt_scale.store.store import Store
from rt_scale.training.batched import BatchedNetwork
from rt_scale.training.distributed import Group
from rt_scale.training.loop import Diverged, Measured, Step

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]


def several(tiny: Tiny) -> list[RunSpec]:
    """Three runs of one shape that differ in all that may differ."""
    own: tuple[dict[str, Any], ...] = (
        {},
        {
            "seeds": {"student": 1, "teacher": 1, "probe": 1},
            "train.epochs": 3,
            "probe.every": "1it",
            "teacher": {"update": "ema", "momentum": 0.9},
        },
        {"student.alpha": 0.25, "train.optimizer": {"name": "sgd", "lr": 0.1}, "objective.name": "mse"},
    )
    return [tiny({"precision": "float64"} | each) for each in own]


def table(settings: Options, spec: RunSpec) -> tuple[list[tuple[int, float, str]], list[float]]:
    rows = pq.read_table(settings.store.run(spec).metrics_path).to_pylist()
    return [(row["step"], row["epoch"], row["name"]) for row in rows], [row["value"] for row in rows]


def assert_as_alone(packed: Options, alone: Options, spec: RunSpec) -> None:
    """Metrics, result and last checkpoint of the run in two stores."""
    (names, values), (known, wanted) = (table(each, spec) for each in (packed, alone))
    assert names == known
    assert values == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    one, other = (each.store.run(spec) for each in (packed, alone))
    found, expected = one.result(), other.result()
    assert found is not None
    assert expected is not None
    assert (found.steps, found.epochs, found.name) == (expected.steps, expected.epochs, spec.name)
    assert one.checkpoints.steps() == other.checkpoints.steps()
    for step in one.checkpoints.steps():
        weights = [
            each.checkpoints.read(step, lambda folder: load_file(folder / "student.safetensors"))
            for each in (one, other)
        ]
        for name, weight in weights[1].items():
            assert weights[0][name].numpy() == pytest.approx(weight.numpy(), abs=1e-9), name


def test_every_run_has_the_directory_that_it_has_alone(tiny: Tiny, settings: Make, tmp_path: Path, seen: Any) -> None:
    specs, packed = several(tiny), settings()
    alone = settings(store=Store(tmp_path / "alone"))
    over: list[int] = []
    observed = [settings(), settings(observer=seen), settings()]
    results = run_batched(specs, observed, lambda number, result: over.append(number))
    assert sorted(over) == [0, 1, 2]
    assert over[-1] == 1  # the longest
    assert seen.named("started") == [(0, 6)]
    assert seen.named("stepped") == [(step,) for step in range(1, 7)]
    for spec, result in zip(specs, results, strict=True):
        run(spec, alone)
        assert_as_alone(packed, alone, spec)
        assert packed.store.run(spec).result() == result
        environment = packed.store.run(spec).record()
        assert environment is not None
        assert environment.execution.pack == 3
        assert environment.attempts[0].packing.size == 3


def test_one_that_cannot_go_on_leaves_the_others_alone(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    """One is held by another process, one diverges, one is stopped: each ends as it would alone."""
    specs = [tiny({"precision": "float64", "seeds.student": seed}) for seed in range(4)]
    specs[1] = tiny({"precision": "float64", "train.optimizer.lr": 1e200})
    stop = {"asked": 0}

    def asked() -> bool:
        stop["asked"] += 1
        return stop["asked"] == 3

    alone = settings(store=Store(tmp_path / "alone"))
    with settings().store.run(specs[0]).acquire():
        ended = run_batched(specs, [settings(), settings(), settings(stop=asked), settings()])
    assert [type(each) for each in ended] == [LeasedElsewhere, Diverged, Stopped, RunResult]
    store = settings().store
    assert [store.status(spec.name).state for spec in specs[1:]] == ["failed", "partial", "done"]
    run(specs[3], alone)
    assert_as_alone(settings(), alone, specs[3])
    # What was stopped goes on in a pack of its own, and what is done is not done again.
    again = run_batched(specs[2:], [settings(), settings()])
    run(specs[2], alone)
    assert again[1] == ended[3]
    names, values = table(settings(), specs[2])
    known, wanted = table(alone, specs[2])
    assert (names, values) == (known, pytest.approx(wanted, rel=1e-9, abs=1e-9))


def test_device_time_is_shared(tiny: Tiny, settings: Make) -> None:
    specs = [tiny({"seeds.student": seed}) for seed in range(2)]
    for result in run_batched(specs, [settings(threads=1)] * 2):
        assert isinstance(result, RunResult)
        assert result.device_seconds["cpu"] == pytest.approx(result.seconds / 2, abs=2e-3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder.name": "convnet_8_1"}, "differ in encoder"),
        ({"train.batch_size": 30}, "differ in train.batch_size"),
        ({"student.alpha": 0}, "must train alone: its student.alpha is 0"),
    ],
)
def test_what_cannot_be_packed_is_refused(tiny: Tiny, settings: Make, changes: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run_batched([tiny(), tiny(changes)], [settings()] * 2)
    assert not settings().store.root.exists()


def test_ranks_are_no_pack(tiny: Tiny, settings: Make) -> None:
    with pytest.raises(InputError, match="1 worker"):
        run_batched([tiny()], [settings(group=Group(0, 2))])


class Clock:
    """Stands in for the time: a step of K students takes what ``costs`` says."""

    def __init__(self, costs: Mapping[int, float]) -> None:
        self.costs, self.tried = costs, list[int]()

    def __call__(self, bench: Any, size: int) -> float:
        self.tried.append(size)
        if size not in self.costs:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return self.costs[size]


@pytest.mark.parametrize(
    ("costs", "most", "tried", "size", "reason"),
    [
        ({1: 1.0, 2: 1.1, 4: 1.4}, 5, [1, 2, 4], 4, "2.86 times as fast"),
        ({1: 1.0, 2: 1.1, 4: 1.4}, 9, [1, 2, 4, 8], 4, "8 do not fit into memory"),
        ({1: 1.0, 2: 1.0, 4: 3.0}, 8, [1, 2, 4], 2, "2.00 times"),
        ({1: 1.0, 2: 1.9, 4: 3.8, 8: 7.6}, 8, [1, 2, 4, 8], 1, "does not pay here"),
        ({1: 1.0}, 1, [1], 1, "does not pay here"),
    ],
)
def test_the_size_is_that_whose_steps_are_fastest_for_a_student(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch,
    costs: dict[int, float], most: int, tried: list[int], size: int, reason: str,
) -> None:  # fmt: skip
    clock = Clock(costs)
    monkeypatch.setattr(pack_size.Bench, "seconds", lambda bench, size: clock(bench, size))
    found = measured_batch_size(tiny(), settings(), most)
    assert (found.size, clock.tried) == (size, tried)
    assert reason in found.reason
    assert found.seconds == {tried: costs[tried] / tried for tried in clock.tried if tried in costs}


def test_a_student_alone_is_timed_with_its_own_weights(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of a compiled network would compute with the weights of the one that was compiled."""
    dressed: list[Network] = []

    def dress(student: Network, batch_size: int, how: str) -> Network:
        dressed.append(student)
        return student

    monkeypatch.setattr(pack_size, "accelerated", dress)
    (step,) = pack_size.Bench(tiny(), settings()).steps(1)
    assert dressed == [step.model]


def test_an_error_that_is_not_for_want_of_memory_is_none_of_packing(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: Any, size: int) -> float:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(pack_size.Bench, "seconds", broken)
    with pytest.raises(RuntimeError, match="kernel"):
        measured_batch_size(tiny(), settings(), 2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment.kind": "crop_flip", "augment.padding": 1},
        {"kind": "supervise", "projector.out_dim": 10, "student.alpha": 1.0},
        {"teacher": {"update": "ema"}, "precision": "bf16"},
        {"data": {"name": "gaussian", "samples": 70, "size": 8, "channels": 1}, "probe": {"also": ["digits"]}},
    ],
)
def test_real_steps_are_measured_and_nothing_is_kept(tiny: Tiny, settings: Make, changes: dict[str, Any]) -> None:
    found = choose_batch_size([tiny(changes | {"seeds.student": seed}) for seed in range(2)], settings(), None)
    assert set(found.seconds) == {1, 2}
    assert all(0 < seconds < 10 for seconds in found.seconds.values())
    assert not settings().store.root.exists()
    json.dumps(found.to_json())


def test_a_number_that_was_asked_for_is_not_measured(tiny: Tiny, settings: Make) -> None:
    specs = [tiny({"seeds.student": seed}) for seed in range(3)]
    assert choose_batch_size(specs, settings(), 2) == BatchSize(size=2, reason="launch.pack is 2")
    assert choose_batch_size(specs, settings(), 5) == BatchSize(size=3, reason="launch.pack is 5")
    refused = choose_batch_size([*specs, tiny({"student.alpha": 0})], settings(), None)
    assert (refused.size, "student.alpha is 0" in refused.reason) == (1, True)


def test_probing_curves_in_float32_are_alike_within_seed_noise(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    """From alpha = 1e-10, where a student starts from rounding, and the batched network's is another."""
    changes = {"data.samples": 200, "encoder.name": "convnet_8_1", "student.alpha": 1e-10, "train.epochs": 4}
    specs = [tiny(changes | {"seeds": {"teacher": seed, "student": seed, "probe": seed}}) for seed in range(4)]
    alone = settings(store=Store(tmp_path / "alone"))
    run_batched(specs, [settings()] * 4)

    def curves(at: Options, spec: RunSpec) -> np.ndarray:
        names, values = table(at, spec)
        probed = [value for (_, _, name), value in zip(names, values, strict=True) if name.startswith("probe/student/")]
        return np.array(probed)

    for spec in specs:
        run(spec, alone)
    packed, known = (np.array([curves(at, spec) for spec in specs]) for at in (settings(), alone))
    spread = known.std(axis=0, ddof=1)
    assert (spread > 0).any()
    assert (np.abs(packed.mean(axis=0) - known.mean(axis=0)) <= spread + 0.01).all()


def test_packed_students_are_in_training_mode_at_every_step_whatever_is_measured_between_them(
    tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[set[bool]] = []
    gradients = BatchedNetwork.gradients

    def watched(self: BatchedNetwork, steps: Sequence[Step]) -> list[Measured]:
        modes.append({module.training for step in steps for module in step.model.modules()})
        return gradients(self, steps)

    monkeypatch.setattr(BatchedNetwork, "gradients", watched)
    changes = {"encoder.norm": "batch", "probe.every": "1it", "probe.statistics": True}
    specs = [tiny(changes | {"seeds.student": seed}) for seed in (0, 1)]
    run_batched(specs, [settings()] * 2)
    assert modes == [{True}] * 4
