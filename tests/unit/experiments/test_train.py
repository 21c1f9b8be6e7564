from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rt_scale.data.prepare import Prepared
from rt_scale.experiments import train as training_run
from rt_scale.experiments.check import cache_bytes
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.probes.evaluator import Embedded, Prober
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import Best
from rt_scale.store.run_dir import RunDir
from rt_scale.training.loop import Measured, Step, compute_gradients

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]
Series = dict[str, list[tuple[int, float]]]


def series(run_dir: RunDir) -> Series:
    """(step, value) of every metric, in the order of measurement."""
    table = read_metrics(run_dir.metrics_path).to_pydict()
    found: Series = {}
    for step, name, value in zip(table["step"], table["name"], table["value"], strict=True):
        found.setdefault(name, []).append((step, value))
    return found


def weights(run_dir: RunDir, step: int, name: str = "student") -> dict[str, torch.Tensor]:
    return load_file(run_dir.path / "checkpoints" / str(step) / f"{name}.safetensors")


def l2(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[name].double() - b[name].double()).pow(2).sum() for name in a) ** 0.5)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What was probed: ids of the encoders, and how often the input."""
    calls: dict[str, list[Any]] = {"network": [], "input": []}
    network, pixels = Prober.embed_network, Prober.probe_input

    def embed_network(self: Prober, encoder: torch.nn.Module, *rest: Any) -> Embedded:
        calls["network"].append(id(encoder))
        return network(self, encoder, *rest)

    def probe_input(self: Prober, seed: int) -> dict[str, float]:
        calls["input"].append(seed)
        return pixels(self, seed)

    monkeypatch.setattr(Prober, "embed_network", embed_network)
    monkeypatch.setattr(Prober, "probe_input", probe_input)
    return calls


def test_teacher_and_input_are_probed_once_a_run(tiny: Tiny, settings: Make, counted: dict[str, list[Any]]) -> None:
    given = settings()
    run(tiny({"train.epochs": 3}), given)
    assert len(counted["input"]) == 1
    teacher, *student = counted["network"]
    assert len(student) == 4
    assert set(student) == {student[0]} != {teacher}
    found = series(given.store.run(tiny({"train.epochs": 3})))
    for name in ("probe/teacher/linear", "probe/input/knn_standardized"):
        assert [step for step, _ in found[name]] == [0, 2, 4, 6]
        assert len({value for _, value in found[name]}) == 1


def test_a_resumed_run_does_not_probe_the_teacher_again(
    tiny: Tiny, settings: Make, seen: Any, counted: dict[str, list[Any]], break_off: BreakOff
) -> None:
    break_off(tiny(), settings(observer=seen), at=3)
    counted["network"].clear()
    counted["input"].clear()
    result = run(tiny(), settings(observer=seen))
    assert (len(counted["input"]), len(counted["network"])) == (0, 1)
    assert seen.named("started") == [(0, 4), (2, 4)]
    assert result.attempts == 2
    undisturbed = settings(store=type(settings().store)(settings().store.root / "other"))
    assert run(tiny(), undisturbed).last == result.last


def test_last_and_best_are_those_of_the_metrics_table(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({"train.epochs": 4, "probe.every": "3it"}), settings()
    result = run(spec, given)
    found = series(given.store.run(spec))
    assert result.last == {name: values[-1][1] for name, values in found.items()}
    for name, best in result.best.items():
        value = max(value for _, value in found[name])
        step = next(step for step, other in found[name] if other == value)
        assert best == Best(value=value, step=step, epoch=step / 2)


@pytest.mark.parametrize(
    ("every", "steps"),
    [("1ep", [0, 2, 4, 6]), ("2ep", [0, 4, 6]), ("3it", [0, 3, 6]), ("4it", [0, 4, 6]), (None, [0, 6])],
)
def test_the_student_is_probed_at_the_start_when_due_and_at_the_end(
    tiny: Tiny, settings: Make, every: str | None, steps: list[int]
) -> None:
    spec, given = tiny({"train.epochs": 3, "probe.every": every}), settings()
    run(spec, given)
    found = series(given.store.run(spec))
    assert [step for step, _ in found["probe/student/linear"]] == steps
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6]


def test_probing_in_the_middle_of_an_epoch_leaves_training_alone(tiny: Tiny, settings: Make) -> None:
    given = settings()
    specs = [tiny({"probe.every": every}) for every in ("1it", None)]
    for spec in specs:
        run(spec, given)
    first, second = (weights(given.store.run(spec), 4) for spec in specs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_at_alpha_0_the_student_starts_as_the_teacher_and_at_1_elsewhere(tiny: Tiny, settings: Make) -> None:
    starts = {}
    for alpha in (0.0, 1.0):
        spec, given = tiny({"student.alpha": alpha}), settings()
        run(spec, given)
        run_dir = given.store.run(spec)
        starts[alpha] = l2(weights(run_dir, 0), weights(run_dir, 0, "teacher"))
        found = series(run_dir)
        names = [name for name in found if name.startswith("probe/student/")]
        same = [found[name][0] == found[name.replace("student", "teacher")][0] for name in names]
        assert len(same) == 4
        assert all(same) is (alpha == 0.0)
    assert starts[0.0] == 0.0
    assert starts[1.0] > 1.0


def test_distances_are_those_of_the_saved_weights(tiny: Tiny, settings: Make) -> None:
    given = settings()
    last = run(tiny(), given).last
    run_dir = given.store.run(tiny())
    end, start, teacher = weights(run_dir, 4), weights(run_dir, 0), weights(run_dir, 0, "teacher")
    assert last["distance/from_init"] == pytest.approx(l2(end, start), rel=1e-12)
    assert last["distance/from_teacher"] == pytest.approx(l2(end, teacher), rel=1e-12)
    assert 0 < last["distance/from_init"] != last["distance/from_teacher"] > 0


def test_a_student_that_starts_at_the_teacher_has_nothing_to_learn(tiny: Tiny, settings: Make) -> None:
    spec = tiny({"student.alpha": 0.0, "train.optimizer": {"name": "sgd", "lr": 1e-4}})
    last = run(spec, settings()).last
    assert last["train/kl"] == pytest.approx(0, abs=1e-4)
    assert last["train/grad_norm"] == pytest.approx(0, abs=1e-4)
    assert last["distance/from_init"] == last["distance/from_teacher"] < 1e-5


def test_the_objective_falls_and_its_parts_add_up(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({"train.epochs": 10, "student.alpha": 1.0, "probe.every": None}), settings()
    run(spec, given)
    found = series(given.store.run(spec))
    kl = [value for _, value in found["train/kl"]]
    assert kl[-1] < 0.5 * kl[0]
    for (_, loss), (_, entropy), value in zip(found["train/loss"], found["train/teacher_entropy"], kl, strict=True):
        assert loss == pytest.approx(entropy + value, abs=2e-6)  # two are rounded in float32


def test_cached_and_computed_targets_lead_to_the_same_student(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    lasts = []
    for cache in (True, False):
        store = type(settings().store)(tmp_path / str(cache))
        lasts.append(run(tiny({"train.epochs": 4}), settings(store=store, cache_teacher=cache)).last)
    for name, value in lasts[0].items():
        # A test image is 1/360; the sums' last bits may move one across a boundary.
        tolerance = 2.5 / 360 if name.startswith("probe/") else 1e-4 * max(1.0, abs(value))
        assert lasts[1][name] == pytest.approx(value, abs=tolerance), name


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of targets that runs had, one a run."""
    kinds: list[str] = []
    build = training_run.build_targets

    def watch(*given: Any) -> Any:
        made = build(*given)
        kinds.append(type(made).__name__)
        return made

    monkeypatch.setattr(training_run, "build_targets", watch)
    return kinds


def test_the_targets_are_cached_exactly_where_that_was_decided(tiny: Tiny, settings: Make, targets: list[str]) -> None:
    for cache in (True, False):
        run(tiny({"seeds.probe": int(cache)}), settings(cache_teacher=cache))
    assert targets == ["CachedTargets", "ComputedTargets"]


CHANGING: list[dict[str, Any]] = [
    {"teacher.update": "ema"},
    {"teacher.update": "previous_epoch"},
    {"teacher.mode": "train"},
    {"teacher.statistics": "data"},
    {"augment": {"kind": "crop_flip", "padding": 1}},
]


@pytest.mark.parametrize("changes", CHANGING, ids=str)
def test_targets_that_change_are_never_cached(
    tiny: Tiny, settings: Make, digits: Prepared, targets: list[str], changes: dict[str, Any]
) -> None:
    spec = tiny({**changes, "train.epochs": 1})
    run(spec, settings(cache_teacher=True))
    assert targets == ["ComputedTargets"]
    assert cache_bytes(spec, digits) == 0


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"student.alpha": 0.0}, True),
        ({"student.alpha": 1e-10, "precision": "bf16"}, True),
        ({"student.alpha": 1e-3}, False),
        ({"student.alpha": 0.0, "encoder.norm": "batch"}, False),
    ],
)
def test_a_student_that_cannot_move_is_told_of_once(
    tiny: Tiny, settings: Make, seen: Any, changes: dict[str, Any], still: bool
) -> None:
    spec = tiny({"train.optimizer": {"name": "adamw"}, **changes})  # weight decay would move it
    run(spec, settings(observer=seen, cache_teacher=False))
    told = [text for (text,) in seen.named("warned") if "exactly 0" in text]
    assert len(told) == int(still)


@pytest.mark.parametrize("changes", [{}, {"kind": "supervise", "projector.out_dim": 10}])
def test_the_student_is_in_training_mode_at_every_step_whatever_is_measured_between_them(
    tiny: Tiny, settings: Make, counted: dict[str, list[Any]], changes: Any
) -> None:
    modes: list[set[bool]] = []

    def watched(step: Step) -> Measured:
        modes.append({module.training for module in step.model.modules()})
        return compute_gradients(step)

    always = {"encoder.norm": "batch", "probe.every": "1it", "probe.statistics": True}
    run(tiny(always | changes), settings(gradients=watched))
    assert modes == [{True}] * 4
    assert len(counted["network"]) > 4
