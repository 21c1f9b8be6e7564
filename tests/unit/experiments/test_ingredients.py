"""What gives a constant its name: everything that changes a bit of it, and little else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments import ingredients
from rt_scale.experiments.check import Sets, check
from rt_scale.experiments.ingredients import constant_name, of_features, of_input_probes, of_teacher_probes
from rt_scale.experiments.options import ResolvedOptions
from rt_scale.models.pair import Network, build_pair, to_device
from rt_scale.spec.run import RunSpec

Tiny = Callable[..., RunSpec]
EXECUTION = ResolvedOptions(torch.device("cpu"), 1, True, True, "resident", "it fits")
ALL = {"input", "teacher", "features"}
PROBES = {"input", "teacher"}
NETWORK = {"teacher", "features"}

CHANGES: list[tuple[str, Any, set[str]]] = [
    ("data.samples", 61, ALL),
    ("data.samples", None, ALL),
    ("data.size", 12, ALL),
    ("seeds.data", 1, ALL),
    ("train.batch_size", 31, ALL),
    ("precision", "float64", ALL),
    ("precision", "bf16", ALL),
    ("seeds.probe", 1, PROBES),
    ("probe.linear", False, PROBES),
    ("probe.knn", 6, PROBES),
    ("probe.standardized", False, PROBES),
    ("probe.epochs", 3, PROBES),
    ("probe.batch_size", 31, PROBES),
    ("probe.lr", 0.02, PROBES),
    ("probe.logistic", True, PROBES),
    ("probe.ridge", True, PROBES),
    ("probe.l2", 0.1, PROBES),
    ("probe.also", ["digits"], PROBES),
    ("probe.statistics", True, {"teacher"}),
    ("seeds.teacher", 1, NETWORK),
    ("encoder.width", 2.0, NETWORK),
    ("encoder.norm", "batch", NETWORK),
    ("projector.hidden", [17], {"features"}),
    ("projector.bottleneck", 9, {"features"}),
    ("projector.parts", "-/lb/-/wn/l/-", {"features"}),
    ("projector.activation", "relu", {"features"}),
    ("projector.out_dim", 33, set()),
    ("student.alpha", 0.25, set()),
    ("seeds.student", 1, set()),
    ("train.epochs", 3, set()),
    ("train.optimizer.lr", 0.02, set()),
    ("probe.every", None, set()),
    ("objective.name", "mse", set()),
]
EXECUTIONS: list[tuple[str, Any, set[str]]] = [
    ("threads", 2, ALL),
    ("channels_last", False, ALL),
    ("workers", 2, ALL),
    ("loader", "map", set()),
    ("loader_reason", "asked for", set()),
    ("cache_teacher", False, set()),
    ("gpus", 0.5, set()),
    ("pack", 2, set()),
    ("student_pass", "compiled", set()),
    ("student_pass_reason", "asked for", set()),
]


def teacher_of(spec: RunSpec, data: Sets) -> Network:
    return build_pair(spec, data.main.info.channels, spec.data.size or data.main.info.size).teacher


def names(
    spec: RunSpec, data: Sets, execution: ResolvedOptions = EXECUTION, teacher: Network | None = None
) -> dict[str, str]:
    network = teacher or teacher_of(spec, data)
    of = {
        "input": of_input_probes(spec, data, execution),
        "teacher": of_teacher_probes(spec, data, execution, network),
        "features": of_features(spec, data, execution, network),
    }
    return {kind: constant_name(kind, each) for kind, each in of.items()}


def differing(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {kind for kind in one if one[kind] != other[kind]}


@pytest.fixture
def sets(tiny: Tiny, data_dir: Path) -> Sets:
    return check(tiny(), data_dir)


@pytest.fixture
def known(tiny: Tiny, sets: Sets) -> dict[str, str]:
    return names(tiny(), sets)


@pytest.mark.parametrize(("key", "value", "changed"), CHANGES, ids=[f"{key}={value}" for key, value, _ in CHANGES])
def test_fields_of_the_spec(
    tiny: Tiny, data_dir: Path, known: dict[str, str], key: str, value: Any, changed: set[str]
) -> None:
    spec = tiny({key: value})
    assert differing(names(spec, check(spec, data_dir)), known) == changed


@pytest.mark.parametrize(("name", "value", "changed"), EXECUTIONS)
def test_how_it_is_executed(
    tiny: Tiny, sets: Sets, known: dict[str, str], name: str, value: Any, changed: set[str]
) -> None:
    assert differing(names(tiny(), sets, dataclasses.replace(EXECUTION, **{name: value})), known) == changed


def test_every_fact_of_an_execution_counts_or_is_known_not_to() -> None:
    fields = {field.name for field in dataclasses.fields(ResolvedOptions)}
    assert fields == {name for name, _, _ in EXECUTIONS} | {"device"}, "say in EXECUTIONS whether the new one counts"
    assert fields >= ingredients.WHERE_IMAGES_LIE


def test_what_it_is_executed_on(tiny: Tiny, sets: Sets, known: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Callable[[pytest.MonkeyPatch], object]] = [
        lambda patch: patch.setattr(ingredients, "cpu_model", lambda: "Another CPU"),
        lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX9"),
        lambda patch: patch.setattr(ingredients, "version_of", {"torch": "9.9"}.get),
        lambda patch: patch.setattr(ingredients, "code_sha256", lambda: "another version"),
        lambda patch: patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True),
        lambda patch: patch.setenv("MKL_CBWR", "AVX2"),
        lambda patch: patch.setattr(ingredients, "_gpu", lambda device: ["A GPU", "9.0", 132, "12.8", 91002]),
    ]
    for number, change in enumerate(changes):
        execution = EXECUTION if number < 6 else dataclasses.replace(EXECUTION, device=torch.device("cuda"))
        with monkeypatch.context() as patch:
            change(patch)
            assert differing(names(tiny(), sets, execution), known) == ALL, number
    assert names(tiny(), sets) == known


def test_contents_of_the_data_count_and_not_its_name(tiny: Tiny, sets: Sets, known: dict[str, str]) -> None:
    assert isinstance(sets.main, Prepared)
    other = dataclasses.replace(sets.main, sha256="0" * 64)
    assert differing(names(tiny(), dataclasses.replace(sets, main=other)), known) == ALL
    also = tiny({"probe.also": ["digits"]})
    one, two = (names(also, dataclasses.replace(sets, also={"digits": each})) for each in (sets.main, other))
    assert differing(one, two) == PROBES


def test_what_is_not_probed_does_not_matter_to_probes(tiny: Tiny, data_dir: Path) -> None:
    """Figure 4: students of any number of images, all probed on one other set."""
    few, many = (tiny({"probe.also": ["digits"], "probe.own": False, "data.samples": n}) for n in (40, 60))
    one, two = (names(each, check(each, data_dir)) for each in (few, many))
    assert differing(one, two) == {"features"}


def test_of_a_whole_split_the_data_seed_orders_training_alone(tiny: Tiny, data_dir: Path) -> None:
    one, two = (tiny({"data.samples": None, "seeds.data": seed}) for seed in (0, 1))
    assert names(one, check(one, data_dir)) == names(two, check(two, data_dir))
    drawn = {"data": {"name": "gaussian", "size": 8, "samples": 60, "channels": 1}}
    one, two = (tiny({**drawn, "probe.also": ["digits"], "seeds.data": seed}) for seed in (0, 1))
    assert differing(names(one, check(one, data_dir)), names(two, check(two, data_dir))) == {"features"}


def test_weights_count_as_the_numbers_that_they_are(tiny: Tiny, sets: Sets) -> None:
    spec = tiny({"encoder.norm": "batch"})
    known = names(spec, sets)

    def nudged(find: Callable[[Network], torch.Tensor]) -> set[str]:
        teacher = teacher_of(spec, sets)
        with torch.no_grad():
            tensor = find(teacher).view(-1)
            tensor[0] = torch.nextafter(tensor[0], tensor[0] + 1)
        return differing(names(spec, sets, teacher=teacher), known)

    def running_mean(teacher: Network) -> torch.Tensor:
        return next(tensor for name, tensor in teacher.encoder.named_buffers() if name.endswith("running_mean"))

    assert nudged(lambda teacher: next(teacher.encoder.parameters())) == NETWORK
    assert nudged(running_mean) == NETWORK
    assert nudged(lambda teacher: next(teacher.projector.mlp.parameters())) == {"features"}
    assert nudged(lambda teacher: next(teacher.projector.bottleneck.parameters())) == {"features"}
    assert nudged(lambda teacher: next(teacher.projector.last.parameters())) == set()
    assert differing(names(spec, sets, teacher=teacher_of(spec, sets).double()), known) == NETWORK
    # The layout of maps is not a number; the record of how it is executed tells of it.
    assert names(spec, sets, teacher=to_device(teacher_of(spec, sets), "cpu", channels_last=True)) == known


def test_code_is_another_when_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("a = 1\n")
    found = [ingredients._sources_sha256([tmp_path])]
    (tmp_path / "notes.txt").write_text("no code")
    assert ingredients._sources_sha256([tmp_path]) == found[0]
    (tmp_path / "a.py").write_text("a = 2\n")
    found.append(ingredients._sources_sha256([tmp_path]))
    (tmp_path / "a.py").rename(tmp_path / "inner" / "a.py")
    found.append(ingredients._sources_sha256([tmp_path]))
    assert len(set(found)) == 3
    assert len(ingredients.code_sha256()) == 64
