"""RunSpec: validation, hashing, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from rt_scale.spec.document import set_dotted
from rt_scale.spec.part import Part, data_name
from rt_scale.spec.run import RunSpec, recorded_name
from rt_scale.spec.schema import field_docs
from rt_scale.spec.yaml_files import parse_yaml

SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}
# Names that users have runs under. A change here means that every store of the world is computed anew.
PINNED = {
    "distill-805ea6b5c64f992f": SMALL,
    "distill-a63cbdc3457d56a2": {"data": {"name": "cifar10"}, "encoder": {"name": "resnet18"}},
    "distill-603b687d68e65952": {
        "data": {"name": "cifar10", "samples": 5000},
        "encoder": {"name": "vgg11", "width": 0.25},
        "student": {"alpha": 0.5},
        "seeds": {"teacher": 1, "student": 2, "data": 3, "probe": 4},
    },
    "distill-a5426d90898a56ca": {
        **SMALL,
        "teacher": {"update": "ema", "momentum": "cosine(0.996, 1)", "mode": "train", "statistics": "data",
                    "temperature": 0.04, "center": 0.9},
        "student": {"alpha": 0, "temperature": 0.1, "center": 0.5},
        "objective": {"name": "kl", "pairing": "opposite"},
        "augment": {"kind": "multicrop", "local_views": 4, "jitter": {"hue": 0.2}, "blur": {"sigma": [0.1, 1]}},
    },
    "distill-f4c3d8b920000170": {**SMALL, "teacher": {"update": "previous_epoch", "statistics": "student"}},
    "distill-3f1b48e1151c29af": {**SMALL, "objective": {"name": "mse"}, "augment": {"kind": "crop_flip"}},
    "supervise-e4a155007457aa67": {
        **SMALL,
        "kind": "supervise",
        "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10},
        "objective": {"label_noise": 0.2},
    },
    "distill-12ddf02a699f902d": {**SMALL, "teacher": {"start_from": {"run": SMALL}}},
    "distill-3f290ddd3f4a8298": {
        **SMALL,
        "student": {"start_from": {"run": SMALL, "take": "init", "part": "encoder"}},
    },
}  # fmt: skip


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate({**SMALL, **changes})


@pytest.mark.parametrize("name", PINNED)
def test_names_are_pinned(name: str) -> None:
    assert RunSpec.model_validate(PINNED[name]).name == name


@pytest.mark.parametrize("name", PINNED)
def test_a_recorded_spec_tells_its_name(name: str) -> None:
    recorded = json.loads(json.dumps(RunSpec.model_validate(PINNED[name]).canonical()))
    assert recorded_name(recorded) == name
    assert recorded_name({**recorded, "precision": "bf16"}) != name
    assert recorded_name({**recorded, "kind": "other"}).startswith("other-")


def test_the_same_meaning_has_the_same_name() -> None:
    one = parse_yaml("data: {name: digits}\nencoder: {name: convnet_32_2, norm: none}\nstudent: {alpha: 1e-3}", "a")
    two = parse_yaml("student: {alpha: 0.001}\nencoder: {width: 1, name: convnet_32_2}\ndata: {name: digits}", "b")
    three = json.loads(RunSpec.model_validate(one).model_dump_json())
    names = {RunSpec.model_validate(document).name for document in (one, two, three)}
    assert len(names) == 1
    assert spec(student={"alpha": 1}).name == spec(student={"alpha": 1.0}).name
    assert spec(student={"alpha": -0.0}).name == spec(student={"alpha": 0}).name
    assert spec(train={"epochs": 20.0}).name == spec(train={"epochs": 20}).name
    assert spec(probe={"every": "5 EP"}).name == spec(probe={"every": "5ep"}).name


def leaves(model: type[Part], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        deeper = isinstance(inner, type) and issubclass(inner, Part)
        found += leaves(inner, (*prefix, name)) if deeper else [(*prefix, name)]  # type: ignore[arg-type]
    return found


CLASSIFIER = {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10}
MULTICROP: dict[str, Any] = {"augment": {"kind": "multicrop"}, "objective": {"pairing": "all"}}
EMA: dict[str, Any] = {"teacher": {"update": "ema"}}
SUPERVISED: dict[str, Any] = {"kind": "supervise", "projector": CLASSIFIER}
NOISE = {"data": {"name": "gaussian", "size": 8, "samples": 60}, "probe": {"also": ["digits"]}}
PLUGGED: dict[str, Any] = {
    "encoder": {"name": "my_nets:Tiny", "source": "0" * 64}, "objective": {"name": "my:cosine", "source": "0" * 64},
}  # fmt: skip
# What a field needs beside it to be allowed.
AROUND: dict[str, dict[str, Any]] = {
    "data.sigma": NOISE,
    "data.channels": NOISE,
    "encoder.attention": {"encoder": {"name": "vit_tiny_shared"}},
    "encoder.init": {"encoder": {"name": "vit_tiny_shared"}},
    "train.optimizer.momentum": {"train": {"optimizer": {"name": "sgd"}}},
    "teacher.momentum": EMA,
    "teacher.statistics": EMA,
    "objective.pairing": MULTICROP,
    "objective.label_noise": SUPERVISED,
    "augment.padding": {"augment": {"kind": "crop_flip"}},
    "encoder.args": PLUGGED,
    "encoder.source": PLUGGED,
    "objective.args": PLUGGED,
    "objective.source": PLUGGED,
    "probe.own": {"probe": {"also": ["mnist"]}},
    "probe.also_size": {"probe": {"also": ["mnist"]}},
}
OTHER = {
    "kind": "supervise", "data.name": "mnist", "data.size": 16, "data.samples": 100, "data.sigma": 0.5,
    "data.channels": 1, "encoder.name": "convnet_16_2", "encoder.norm": "batch", "encoder.width": 0.5,
    "encoder.attention": "heads", "encoder.init": "authors", "projector.hidden": [8],
    "projector.bottleneck": 8, "projector.out_dim": 8, "projector.parts": "-/lb/fn/-/l/-",
    "projector.activation": "relu", "projector.batch_norm": True, "projector.init": "torch",
    "teacher.start_from": {"run": SMALL}, "teacher.update": "ema", "teacher.momentum": "cosine(0.996, 1)",
    "teacher.mode": "train", "teacher.statistics": "student", "teacher.temperature": 0.04, "teacher.center": 0.9,
    "student.alpha": 0.5, "student.epsilon": 0.1, "student.start_from": {"run": SMALL}, "student.temperature": 0.1,
    "student.center": 0.9, "objective.name": "mse", "objective.pairing": "opposite", "objective.label_noise": 0.2,
    "augment.kind": "crop_flip", "augment.padding": 2, "augment.flip": 0.1, "augment.global_views": 3,
    "augment.local_views": 2, "augment.global_size": 24, "augment.local_size": 12, "augment.global_scale": [0.3, 1.0],
    "augment.local_scale": [0.1, 0.3], "augment.ratio": [1.0, 1.0], "augment.interpolation": "bilinear",
    "augment.jitter.probability": 0.5, "augment.jitter.brightness": 0.1, "augment.jitter.contrast": 0.1,
    "augment.jitter.saturation": 0.1, "augment.jitter.hue": 0.2, "augment.grayscale": 0.1, "augment.blur.first": 0.5,
    "augment.blur.others": 0.5, "augment.blur.local": 0.1, "augment.blur.sigma": [0.5, 1.0], "augment.solarize": 0.1,
    "augment.solarize_threshold": 0.25,
    "train.epochs": 3, "train.batch_size": 8,
    "train.optimizer.name": "sgd", "train.optimizer.lr": 0.1, "train.optimizer.weight_decay": 0.1,
    "train.optimizer.momentum": 0.9, "train.optimizer.decay_norm_and_bias": False,
    "train.optimizer.clip": 3, "train.freeze_last": "1ep",
    "probe.every": "1ep", "probe.linear": False, "probe.knn": 5, "probe.standardized": False,
    "probe.epochs": 3, "probe.batch_size": 8, "probe.lr": 0.1, "probe.logistic": True, "probe.ridge": True,
    "probe.l2": 0.1, "probe.also": ["mnist"], "probe.also_size": "own", "probe.own": False,
    "probe.statistics": True, "probe.baselines": False,
    "seeds.teacher": 1, "seeds.student": 1, "seeds.data": 1, "seeds.order": 1, "seeds.probe": 1, "precision": "bf16",
    "encoder.args": {"width": 8}, "encoder.source": "1" * 64, "objective.args": {"power": 2.0},
    "objective.source": "1" * 64, "probe.extra": [{"name": "my_probes:centroids", "source": "0" * 64}],
}  # fmt: skip


OF_A_READER = ("data.reader", "data.args", "data.source")
"""They change together, with the name of the prepared set."""


@pytest.mark.parametrize("reader", ["my_data:Shapes", "my_data:Dots"])
@pytest.mark.parametrize("args", [None, {"images": 100}])
@pytest.mark.parametrize("source", ["0" * 64, "1" * 64])
def test_the_name_of_a_plugins_data_set_tells_its_plugin(reader: str, args: Any, source: str) -> None:
    name = data_name(reader, args, source)
    data = {"name": name, "reader": reader, "args": args, "source": source}
    assert name.startswith(reader.partition(":")[2])
    assert spec(data=data).data.plugin == reader
    for other in ({"reader": "my_data:Other"}, {"reader": "Shapes"}, {"args": {"images": 5}}, {"source": "2" * 64}):
        with pytest.raises(ValueError, match="is not the data set of"):
            spec(data={**data, **other})


@pytest.mark.parametrize("path", [path for leaf in leaves(RunSpec) if (path := ".".join(leaf)) not in OF_A_READER])
def test_every_field_changes_the_name(path: str) -> None:
    of_views = path.startswith("augment.") and path not in ("augment.kind", "augment.padding")
    base: dict[str, Any] = SMALL | AROUND.get(path, MULTICROP if of_views else {})
    before = RunSpec.model_validate(base)
    after = RunSpec.model_validate(set_dotted(base, path, OTHER[path]))
    assert before.name != after.name
    assert before.configuration_hash != after.configuration_hash or path.startswith("seeds.")


def test_an_order_equal_to_the_data_seed_is_none() -> None:
    assert spec(seeds={"order": 0}) == spec(seeds={"order": None}) == spec()
    assert spec(seeds={"data": 3, "order": 3}).name == spec(seeds={"data": 3}).name
    assert "order" not in spec(seeds={"data": 3, "order": 3}).canonical()["seeds"]
    other = spec(seeds={"data": 3, "order": 0})
    assert (other.seeds.order, other.seeds.ordering, spec(seeds={"data": 3}).seeds.ordering) == (0, 0, 3)
    assert other.canonical()["seeds"]["order"] == 0
    assert RunSpec.model_validate(other.canonical()).name == other.name


def test_the_name_begins_with_the_kind() -> None:
    assert spec().name.startswith("distill-")
    assert spec(**SUPERVISED).name.startswith("supervise-")


class Before(Part):
    lr: float = 0.1


class WithNewField(Part):
    lr: float = 0.1
    warm_up: int = Field(0, json_schema_extra={"neutral": 0})


class WithNewDefault(Part):
    lr: float = 0.1
    warm_up: int = Field(5, json_schema_extra={"neutral": 0})


class WithChangedDefault(Part):
    lr: float = 0.2


def test_a_new_field_at_the_old_behaviour_keeps_hashes() -> None:
    assert Before().canonical_text == WithNewField().canonical_text
    assert WithNewField(warm_up=1).canonical_text != WithNewField().canonical_text


def test_a_changed_default_changes_hashes() -> None:
    assert Before().canonical_text != WithChangedDefault().canonical_text
    assert WithNewField().canonical_text != WithNewDefault().canonical_text


def test_configuration_hash_leaves_out_the_seeds_alone() -> None:
    assert spec(seeds={"teacher": 1}).configuration_hash == spec().configuration_hash
    assert spec(student={"alpha": 0.3}).configuration_hash != spec().configuration_hash


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_and_the_seeds_of_runs_to_start_from(role: str) -> None:
    def start(**changes: Any) -> RunSpec:
        inner = {**SMALL, **changes, "teacher": {"start_from": {"run": {**SMALL, **changes}}}}
        return spec(**{role: {"start_from": {"run": inner}}})

    assert start(seeds={"teacher": 1}).configuration_hash == start().configuration_hash
    assert start(seeds={"teacher": 1}).name != start().name
    assert start(precision="bf16").configuration_hash != start().configuration_hash


def test_norm_defaults_to_the_papers() -> None:
    assert spec(encoder={"name": "resnet18"}).encoder.norm == "batch"
    assert spec(encoder={"name": "vgg11"}).encoder.norm == "none"
    assert spec(encoder={"name": "resnet18"}).name == spec(encoder={"name": "resnet18", "norm": "batch"}).name


def test_attention_over_tokens_is_left_out_of_the_name() -> None:
    assert spec(encoder={"name": "convnet_32_2", "attention": "tokens"}).name == spec().name
    assert "attention" not in spec(encoder={"name": "vit_tiny_shared"}).canonical()["encoder"]
    with pytest.raises(ValidationError, match="published variant"):
        spec(encoder={"name": "vit_tiny", "attention": "heads"})


def test_parts_at_their_neutral_values_are_left_out_of_the_name() -> None:
    written_out = {
        "kind": "distill",
        "teacher": {"start_from": None, "update": "none", "momentum": 0.996, "mode": "eval", "statistics": "initial",
                    "temperature": 1, "center": None},
        "student": {"start_from": None, "temperature": 1.0, "center": None, "epsilon": None},
        "objective": {"name": "cross_entropy", "pairing": "same", "label_noise": 0},
        "augment": {"kind": "none", "jitter": {"hue": 0.1}, "blur": {"sigma": [0.1, 2]}},
    }  # fmt: skip
    assert spec(**written_out).name == spec().name
    assert set(spec().canonical()) == {
        "kind",
        "data",
        "encoder",
        "projector",
        "student",
        "train",
        "probe",
        "seeds",
        "precision",
    }
    assert spec().canonical()["student"] == {"alpha": 1e-10}
    moved = spec(teacher={"update": "ema"}, objective={"name": "mse"}).canonical()
    assert (moved["teacher"], moved["objective"]) == ({"update": "ema"}, {"name": "mse"})


def test_specs_are_frozen_and_documented() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().precision = "bf16"  # type: ignore[misc]

    def undocumented(model: type[Part]) -> list[str]:
        names = [f"{model.__name__}.{name}" for name in model.model_fields.keys() - field_docs(model).keys()]
        for field in model.model_fields.values():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Part):
                names += undocumented(inner)
        return names

    assert undocumented(RunSpec) == []


@given(st.floats(0, 1), st.integers(1, 65536), st.integers(0, 2**40))
def test_names_survive_a_round_trip_through_json(alpha: float, out_dim: int, seed: int) -> None:
    value = spec(student={"alpha": alpha}, projector={"out_dim": out_dim}, seeds={"teacher": seed})
    again = RunSpec.model_validate_json(value.model_dump_json())
    assert again == value
    assert again.name == value.name
    from_canonical = RunSpec.model_validate(json.loads(json.dumps(value.canonical())))
    assert from_canonical.name == value.name
