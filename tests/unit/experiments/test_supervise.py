"""Runs of kind supervise: labels in place of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.choose import training_subset
from rt_scale.data.prepare import Prepared
from rt_scale.data.subsets import nested_subset, noisy_labels
from rt_scale.experiments import evaluation
from rt_scale.experiments import train as training_run
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import build_pair
from rt_scale.probes.evaluator import Prober
from rt_scale.probes.features import Features
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import Best
from rt_scale.store.store import Store

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]
CLASSIFIER = {"hidden": [], "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10}
LABELS: dict[str, Any] = {"kind": "supervise", "projector": CLASSIFIER, "student.alpha": 1.0}


def test_a_classifier_learns_its_labels(tiny: Tiny, settings: Make) -> None:
    spec = tiny({**LABELS, "data.samples": None, "train.epochs": 6, "probe.every": None, "encoder.name": "convnet_8_2"})
    given = settings()
    result = run(spec, given)
    last = result.last
    assert last["test/accuracy"] > 0.7
    best = result.best["test/accuracy"]
    assert best == Best(value=last["test/accuracy"], step=270, epoch=6)
    assert not {name for name in result.best if not name.startswith(("probe/student/", "test/accuracy"))}
    assert last["train/accuracy"] > 0.7
    assert not {"train/kl", "train/teacher_entropy"} & set(last)
    table = read_metrics(given.store.run(spec).metrics_path).to_pydict()
    assert [step for step, name in zip(table["step"], table["name"], strict=True) if name == "test/accuracy"] == [
        0,
        276 - 6,
    ]


def test_the_test_numbers_are_those_of_the_saved_classifier(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    spec, given = tiny({**LABELS, "encoder.norm": "batch"}), settings()
    last = run(spec, given).last
    model = build_pair(spec, 1, 8).student
    model.load_state_dict(load_file(given.store.run(spec).path / "checkpoints" / "4" / "student.safetensors"))
    images = to_inputs(torch.from_numpy(digits.test.read_all()), digits.info.mean, digits.info.std, None, torch.float32)
    labels = torch.from_numpy(digits.test.labels.astype(np.int64))
    with torch.no_grad():
        logits = model.eval()(images)
    assert last["test/accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-6)
    assert last["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


TAUGHT: dict[str, Any] = {
    "projector": CLASSIFIER,
    "student.alpha": 1.0,
    "data.samples": 40,
    "teacher": {"start_from": {"run": {"same_but": {"kind": "supervise", "data": {"samples": 60}}}}},
}


def test_the_outputs_of_its_student_are_tested_as_classes(tiny: Tiny, settings: Make, digits: Prepared) -> None:
    spec, given = tiny(TAUGHT), settings()
    last = run(spec, given).last
    assert set(last) == set(spec.logged) >= {"test/accuracy", "test/loss"}
    model = build_pair(spec, 1, 8).student
    model.load_state_dict(load_file(given.store.run(spec).path / "checkpoints" / "4" / "student.safetensors"))
    images = to_inputs(torch.from_numpy(digits.test.read_all()), digits.info.mean, digits.info.std, None, torch.float32)
    right = model.eval()(images).argmax(dim=1).numpy() == digits.test.labels
    assert last["test/accuracy"] == pytest.approx(right.mean())


def test_a_run_taught_by_it_goes_on_bitwise(tiny: Tiny, resumed_and_whole: Any) -> None:
    resumed_and_whole(tiny(TAUGHT))


def test_fractions_of_a_set_are_nested_for_a_seed(tiny: Tiny, digits: Prepared) -> None:
    subsets = [training_subset(tiny({"data.samples": count}), digits) for count in (20, 60, 500)]
    small, middle, large = (set(each.tolist()) for each in subsets if each is not None)
    assert small < middle < large
    other = training_subset(tiny({"data.samples": 20, "seeds.data": 1}), digits)
    assert other is not None
    assert set(other.tolist()) != small


def test_a_classifier_is_tested_from_its_embeddings_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    test = Features(torch.randn(50, 6, generator=generator), torch.randint(0, 4, (50,), generator=generator))
    projector = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.9)).train()
    whole = {name: evaluation.test_classifier(projector, test, name) for name in ("float32", "bf16")}
    assert projector[1].training
    logits = projector[0](test.x)
    assert whole["float32"]["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, test.y).item(), rel=1e-6)
    assert whole["float32"]["test/accuracy"] == pytest.approx((logits.argmax(1) == test.y).float().mean().item())
    assert whole["bf16"]["test/loss"] == pytest.approx(whole["float32"]["test/loss"], rel=1e-2)
    assert whole["bf16"]["test/loss"] != pytest.approx(whole["float32"]["test/loss"], rel=1e-6)
    monkeypatch.setattr(evaluation, "_ROWS", 7)
    in_parts = evaluation.test_classifier(projector.double(), test, "float64")
    assert in_parts == pytest.approx(whole["float32"], rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_labels_are_those_of_the_images_with_their_share_of_noise(
    tiny: Tiny, settings: Make, digits: Prepared, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    built = []
    build = training_run.build_objective

    def watch(*given: Any) -> Any:
        built.append(build(*given))
        return built[-1]

    monkeypatch.setattr(training_run, "build_objective", watch)
    run(tiny({**LABELS, "objective.label_noise": share, "seeds.data": 3, "train.epochs": 1}), settings())
    every = digits.train.labels
    subset = nested_subset(every, 60, 3)
    found = built[0].labels.numpy()
    assert found.tolist() == noisy_labels(every, share, 10, 3)[subset].tolist()
    assert (found != every[subset]).mean() == pytest.approx(0.9 * share, abs=0.15)


def test_noise_is_in_training_alone(tiny: Tiny, settings: Make) -> None:
    changes = {**LABELS, "data.samples": None, "encoder.name": "convnet_8_2", "train.epochs": 8, "probe.every": None}
    last = run(tiny({**changes, "objective.label_noise": 0.5}), settings()).last
    assert last["train/accuracy"] < 0.55
    assert last["test/accuracy"] > last["train/accuracy"] + 0.15


def test_outputs_are_the_classes(tiny: Tiny, settings: Make, colours: Prepared) -> None:
    given = settings()
    for changes, classes in (({"projector.out_dim": 11}, 10), ({"data": {"name": "colours"}}, 2)):
        with pytest.raises(InputError, match=rf"kind supervise needs one output a class: .* set .* to {classes}\."):
            run(tiny({**LABELS, **changes}), given)
    assert not given.store.root.exists()
    tested = run(tiny({**LABELS, "data": {"name": "colours"}, "projector.out_dim": 2}), given).last
    assert 0 <= tested["test/accuracy"] <= 1


def test_augmented_images_are_learned_from(tiny: Tiny, settings: Make) -> None:
    given = settings()
    losses = [
        run(tiny({**LABELS, "augment": augment}), given).last["train/loss"]
        for augment in ({}, {"kind": "crop_flip", "padding": 1})
    ]
    assert losses[0] != losses[1]


def test_from_a_distilled_encoder_to_a_classifier(tiny: Tiny, settings: Make) -> None:
    distilled = {"kind": "distill", "projector": {"hidden": [16], "parts": "-/lb/fn/wn/l/-", "out_dim": 32}}
    start = {"run": {"same_but": distilled}, "part": "encoder"}
    spec, given = tiny({"kind": "supervise", "projector": CLASSIFIER, "student": {"start_from": start}}), settings()
    run(spec, given)
    first = spec.starts[0].run
    assert first.name.startswith("distill-")
    began = load_file(given.store.run(spec).path / "checkpoints" / "0" / "student.safetensors")
    ended = load_file(given.store.run(first).path / "checkpoints" / "4" / "student.safetensors")
    encoder = [name for name in ended if name.startswith("encoder.")]
    assert encoder
    assert all(torch.equal(began[name], ended[name]) for name in encoder)


NONE = {"probe": {"every": "1it", "linear": False, "knn": 0}}


def student(given: Options, spec: RunSpec) -> bytes:
    return (given.store.run(spec).path / "checkpoints" / "4" / "student.safetensors").read_bytes()


def test_without_probes_it_is_tested_all_the_same(tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given, probed, plain = settings(), tiny({**LABELS, "probe.every": "1it"}), tiny({**LABELS, **NONE})
    expected = run(probed, given)
    for name in ("embed_network", "probe_input", "probe_features"):
        monkeypatch.setattr(Prober, name, lambda *_: pytest.fail("it was probed"))
    embedded: list[object] = []
    original = Prober.embed_test
    monkeypatch.setattr(Prober, "embed_test", lambda self, encoder: embedded.append(encoder) or original(self, encoder))
    result = run(plain, given)
    assert len(embedded) == 1 + 4  # the student at its start and after every step, its teacher never
    assert {name for name in result.last if name.startswith(("probe", "test"))} == {"test/loss", "test/accuracy"}
    assert result.last == {name: value for name, value in expected.last.items() if not name.startswith("probe")}
    assert set(result.best) == {"test/accuracy"}
    assert student(given, plain) == student(given, probed)
    table = read_metrics(given.store.run(plain).metrics_path).to_pydict()
    steps = [step for step, name in zip(table["step"], table["name"], strict=True) if name == "test/accuracy"]
    assert steps == [0, 1, 2, 3, 4]
    assert set(plain.logged) == set(result.last)


def test_without_baselines_the_student_is_probed_as_with_them(tiny: Tiny, settings: Make, colours: Prepared) -> None:
    given, also = settings(), {"probe.also": ["digits"]}
    whole, alone = (run(tiny({**LABELS, **also, "probe.baselines": all_roles}), given) for all_roles in (True, False))
    kept = {name: value for name, value in whole.last.items() if "/input/" not in name and "/teacher/" not in name}
    assert alone.last == kept
    assert "probe@digits/student/linear" in kept
    assert alone.best == whole.best


def test_statistics_need_no_probes(tiny: Tiny, settings: Make) -> None:
    given = settings()
    last = run(tiny({**LABELS, **NONE, "probe.statistics": True}), given).last
    whole = run(tiny({**LABELS, "probe.every": "1it", "probe.statistics": True}), given).last
    assert last == {name: value for name, value in whole.items() if not name.startswith("probe")}


def test_a_run_without_probes_goes_on_bitwise(
    tiny: Tiny, settings: Make, seen: Any, break_off: BreakOff, tmp_path: Path
) -> None:
    spec, alone = tiny({**LABELS, **NONE}), settings(store=Store(tmp_path / "alone"))
    undisturbed = run(spec, alone)

    break_off(spec, settings(observer=seen), at=3)
    given = settings(observer=seen)
    assert run(spec, given).last == undisturbed.last
    assert seen.named("started") == [(0, 4), (2, 4)]
    assert student(given, spec) == student(alone, spec)
