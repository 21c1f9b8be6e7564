"""RunSpec: validation, hashing, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from rt_scale.spec.document import build, parse_yaml
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import Part, ProbeSpec, RunSpec, _canonical, _digest

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
}


def spec(**changes: Any) -> RunSpec:
    return RunSpec.model_validate({**SMALL, **changes})


@pytest.mark.parametrize("name", PINNED)
def test_names_are_pinned(name: str) -> None:
    assert RunSpec.model_validate(PINNED[name]).name == name


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


OTHER = {
    "data.name": "mnist", "data.size": 16, "data.samples": 100, "encoder.name": "convnet_16_2",
    "encoder.norm": "batch", "encoder.width": 0.5, "projector.hidden": [8], "projector.bottleneck": 8,
    "projector.out_dim": 8, "projector.parts": "-/lb/fn/-/l/-", "projector.activation": "relu",
    "projector.batch_norm": True, "projector.init": "torch", "student.alpha": 0.5, "student.epsilon": 0.1,
    "train.epochs": 3, "train.batch_size": 8,
    "train.optimizer.name": "sgd", "train.optimizer.lr": 0.1, "train.optimizer.weight_decay": 0.1,
    "train.optimizer.decay_norm_and_bias": False,
    "train.optimizer.clip": 3, "train.freeze_last": "1ep",
    "probe.every": "1ep", "probe.linear": False, "probe.knn": 5, "probe.standardized": False,
    "probe.epochs": 3, "probe.batch_size": 8, "probe.lr": 0.1, "probe.logistic": True, "probe.ridge": True,
    "probe.l2": 0.1, "probe.also": ["mnist"], "probe.statistics": True, "seeds.teacher": 1, "seeds.student": 1,
    "seeds.data": 1, "seeds.probe": 1, "precision": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("path", [".".join(leaf) for leaf in leaves(RunSpec)])
def test_every_field_changes_the_name(path: str) -> None:
    if path == "kind":
        with pytest.raises(ValidationError):
            spec(kind="prune")
        return
    base: dict[str, Any] = json.loads(json.dumps(SMALL))
    if path == "encoder.attention":
        base["encoder"] = {"name": "vit_tiny_shared"}
        changed: Any = "heads"
    elif path == "train.optimizer.momentum":
        base["train"] = {"optimizer": {"name": "sgd"}}
        changed = 0.9
    else:
        changed = OTHER[path]
    before = RunSpec.model_validate(base).name
    *parents, last = path.split(".")
    target = base
    for parent in parents:
        target = target.setdefault(parent, {})
    target[last] = changed
    assert RunSpec.model_validate(base).name != before


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
    assert _digest(_canonical(Before())) == _digest(_canonical(WithNewField()))
    assert _digest(_canonical(WithNewField(warm_up=1))) != _digest(_canonical(WithNewField()))


def test_a_changed_default_changes_hashes() -> None:
    assert _digest(_canonical(Before())) != _digest(_canonical(WithChangedDefault()))
    assert _digest(_canonical(WithNewField())) != _digest(_canonical(WithNewDefault()))


def test_configuration_hash_leaves_out_the_seeds_alone() -> None:
    assert spec(seeds={"teacher": 1}).configuration_hash == spec().configuration_hash
    assert spec(student={"alpha": 0.3}).configuration_hash != spec().configuration_hash


def test_norm_defaults_to_the_papers() -> None:
    assert spec(encoder={"name": "resnet18"}).encoder.norm == "batch"
    assert spec(encoder={"name": "vgg11"}).encoder.norm == "none"
    assert spec(encoder={"name": "resnet18"}).name == spec(encoder={"name": "resnet18", "norm": "batch"}).name


def test_attention_over_tokens_is_left_out_of_the_name() -> None:
    assert spec(encoder={"name": "convnet_32_2", "attention": "tokens"}).name == spec().name
    assert "attention" not in spec(encoder={"name": "vit_tiny_shared"}).canonical()["encoder"]
    with pytest.raises(ValidationError, match="published variant"):
        spec(encoder={"name": "vit_tiny", "attention": "heads"})


def test_specs_are_frozen_and_documented() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().precision = "bf16"  # type: ignore[misc]

    def undocumented(model: type[Part]) -> list[str]:
        names = []
        for name, field in model.model_fields.items():
            inner = field.annotation
            if not field.description:
                names.append(f"{model.__name__}.{name}")
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"alpha": 1.5}}, ["student.alpha", "1.5", "less than or equal to 1"]),
        ({"student": {"alpha": 0.5, "epsilon": 0.1}}, ["two forms of one choice"]),
        ({"student": {"epsilon": -0.1}}, ["student.epsilon", "greater than or equal to 0"]),
        ({"student": {"alpha": -0.1}}, ["student.alpha", "greater than or equal to 0"]),
        ({"student": {"alpha": float("nan")}}, ["student.alpha", "finite"]),
        ({"projector": {"out_dim": 0}}, ["projector.out_dim", "greater than or equal to 1", "0"]),
        ({"projector": {"out_dim": 65537}}, ["projector.out_dim", "65536"]),
        ({"projector": {"hidden": [0]}}, ["projector", "hidden widths", "[0]"]),
        ({"encoder": {"name": "resnet81"}}, ["encoder", "'resnet81'", "Did you mean 'resnet18'?"]),
        ({"encoder": {"name": "vgg11", "norm": "bach"}}, ["encoder.norm", "did you mean 'batch'?"]),
        ({"encoder": {"name": "vgg11", "width": 0}}, ["encoder.width", "greater than 0"]),
        ({"train": {"epohcs": 3}}, ["train.epohcs", "unknown key", "did you mean 'epochs'?"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "greater than or equal to 1"]),
        ({"train": {"optimizer": {"lr": 0}}}, ["train.optimizer.lr", "greater than 0"]),
        ({"train": {"optimizer": {"lr": -1}}}, ["train.optimizer.lr", "greater than 0"]),
        (
            {"train": {"optimizer": {"lr": "cosin(1, 0)"}}},
            ["train.optimizer.lr", "did you mean 'cosine'?", "character 1"],
        ),
        ({"train": {"optimizer": {"weight_decay": "linear(-1, 0)"}}}, ["weight_decay", "from -1 to 0"]),
        ({"train": {"optimizer": {"clip": 0}}}, ["train.optimizer.clip", "greater than 0"]),
        ({"train": {"optimizer": {"name": "adma"}}}, ["'adma'", "did you mean 'adam'?"]),
        ({"train": {"optimizer": {"momentum": 0.9}}}, ["momentum belongs to sgd", "adamw"]),
        ({"probe": {"every": "5"}}, ["probe.every", "'5' is no duration", "'5ep'"]),
        ({"probe": {"linear": False, "knn": 0}}, ["nothing would be probed"]),
        ({"probe": {"l2": 0}}, ["probe.l2", "greater than 0"]),
        ({"probe": {"also": "mnist"}}, ["probe.also"]),
        ({"probe": {"also": ["../x"]}}, ["probe.also"]),
        ({"probe": {"also": ["mnist", "digits", "mnist"]}}, ["probe.also", "once", "mnist, digits, mnist"]),
        ({"seeds": {"teacher": -1}}, ["seeds.teacher", "greater than or equal to 0"]),
        ({"data": {}}, ["data.name", "required"]),
        ({"data": {"name": "../x"}}, ["data.name"]),
        ({"kind": "distil"}, ["kind", "did you mean 'distill'?"]),
    ],
)
def test_bad_values_are_refused_with_what_is_allowed(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(RunSpec, {**SMALL, **changes}, "spec.yaml")
    message = str(caught.value)
    assert message.startswith("spec.yaml is not valid: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_probe_defaults_are_the_papers() -> None:
    probe = ProbeSpec()
    assert (probe.knn, probe.epochs, probe.batch_size, probe.lr) == (20, 10, 256, 1e-3)
    assert probe.kinds == ("linear", "knn", "linear_standardized", "knn_standardized")


def test_the_probes_that_are_asked_for_by_name() -> None:
    probe = ProbeSpec(linear=False, knn=0, ridge=True, logistic=True)
    assert probe.kinds == ("logistic", "ridge", "logistic_standardized", "ridge_standardized")
    assert ProbeSpec(knn=1, ridge=True, standardized=False).kinds == ("linear", "knn", "ridge")


def test_the_order_of_further_data_sets_is_no_difference() -> None:
    names = [spec(probe={"also": also}).name for also in (["stl10", "mnist"], ["mnist", "stl10"], ["mnist"], [])]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[3] == spec().name
