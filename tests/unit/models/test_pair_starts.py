"""What teacher and student start from, and that nothing of theirs is one and the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rt_scale.models.networks import build_network, build_pair, local_initialisation, to_device
from rt_scale.spec.run import stream
from tests.unit.models.networks import EVERY_LAYER, draw, same, spec


def memory(*networks: torch.nn.Module) -> list[int]:
    """Where every parameter and buffer lies, as often as a module has it and a module is there."""
    return [
        tensor.untyped_storage().data_ptr()
        for network in networks
        for _, module in network.named_modules(remove_duplicate=False)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]


def test_no_two_modules_share_a_parameter() -> None:
    """Two layers that were one by mistake would be trained as one."""
    for encoder in EVERY_LAYER:
        network = build_network(spec(encoder=encoder), 3, 32, torch.Generator().manual_seed(0))
        assert len(set(memory(network))) == len(memory(network)), encoder


@pytest.mark.parametrize(("name", "blocks"), [("vit_tiny", 12), ("vit_tiny_shared", 1)])
def test_only_a_shared_vit_uses_one_block_twelve_times(name: str, blocks: int) -> None:
    network = build_network(spec(encoder={"name": name, "width": 0.0625}), 3, 32, torch.Generator())
    weights = {
        parameter.data_ptr()
        for name, parameter in network.named_parameters()
        if name.endswith("query_key_value.weight")
    }
    assert len(weights) == blocks


EVERY_START: list[dict[str, Any]] = [
    *({"student": student} for student in ({"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.0}, {}, {"epsilon": 0.1})),
    {"weights": ["student"]},
    {"weights": ["teacher"]},
    {"weights": ["teacher", "student"]},
]


@pytest.mark.parametrize("start", EVERY_START, ids=str)
@pytest.mark.parametrize("part", ["", "encoder."])
def test_teacher_student_and_where_they_start_share_no_memory(start: dict[str, Any], part: str) -> None:
    """One that moved with the other, or with the weights that both began with, would spoil a run unseen."""
    other = draw(7)
    weights = {name: value for name, value in other.state_dict().items() if name.startswith(part)}
    fields = {"student": start["student"]} if "student" in start else {}
    pair = build_pair(spec(**fields), 1, 8, {role: weights for role in start.get("weights", [])})
    everything = memory(pair.teacher, pair.student, other)
    assert len(set(everything)) == len(everything)
    moved = [to_device(network, "cpu") for network in pair]
    assert len(set(memory(*moved))) == len(memory(*moved))


def trained(seed: int) -> dict[str, torch.Tensor]:
    """Weights of another run, whose batch norms have seen images."""
    network = draw(seed)
    network.train()(torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(seed)))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    assert weights["encoder.features.1.num_batches_tracked"] == 1
    return weights


def equal(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], part: str = "") -> bool:
    own = network.state_dict()
    return all(torch.equal(own[name], weights[name]) for name in own if name.startswith(part))


def test_a_teacher_of_another_run_is_that_network_and_the_student_starts_around_it() -> None:
    weights = trained(7)
    pair = build_pair(spec(seeds={"student": 4}), 1, 8, {"teacher": weights})
    assert equal(pair.teacher, weights)
    assert same(pair.student, local_initialisation(pair.teacher, draw(stream("student", 4)), 0.5))
    assert torch.equal(
        pair.student.state_dict()["encoder.features.1.running_mean"], weights["encoder.features.1.running_mean"]
    )
    assert not pair.teacher.training
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())


def test_a_student_of_another_run_is_that_network_and_the_teacher_its_own_draw() -> None:
    weights = trained(7)
    pair = build_pair(spec(student={}, seeds={"teacher": 3}), 1, 8, {"student": weights})
    assert equal(pair.student, weights)
    assert same(pair.teacher, draw(stream("teacher", 3)))
    assert pair.student.training
    assert all(parameter.requires_grad for parameter in pair.student.parameters())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_encoder_of_another_run_has_a_projector_of_its_own_draw(role: str) -> None:
    weights = {name: value for name, value in trained(7).items() if name.startswith("encoder.")}
    # Of a run with another projector, so that only the encoder fits.
    wide = spec(
        projector={"hidden": [6], "bottleneck": 3, "out_dim": 50}, student={}, seeds={"teacher": 3, "student": 4}
    )
    pair = build_pair(wide, 1, 8, {role: weights})
    network, seed = (pair.teacher, 3) if role == "teacher" else (pair.student, 4)
    assert equal(network, weights, "encoder.")
    own = build_network(wide, 1, 8, torch.Generator().manual_seed(stream(role, seed)))
    assert same(network.projector, own.projector)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_float64_keep_every_bit(role: str, dtype: torch.dtype) -> None:
    fields = {} if role == "teacher" else {"student": {}}
    weights = {
        name: value.to(dtype) * (1 + 1e-12) if value.is_floating_point() else value
        for name, value in trained(7).items()
    }
    pair = build_pair(spec(**fields), 1, 8, {role: weights})
    for network in pair:
        assert {value.dtype for value in network.state_dict().values() if value.is_floating_point()} == {dtype}
    taken = getattr(pair, role)
    assert equal(taken, weights)
    assert equal(taken, trained(7)) is (dtype == torch.float32)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("part", ["", "encoder."])
def test_weights_that_are_not_all_there_are_refused(role: str, part: str) -> None:
    """One that is missing would be left at its draw, unseen."""
    weights = {name: value for name, value in trained(7).items() if name.startswith(part)}
    fields = {} if role == "teacher" else {"student": {}}
    for name in ("encoder.features.0.weight", "encoder.features.1.running_mean"):
        fewer = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(ValueError, match=f"another architecture: .*{name}"):
            build_pair(spec(**fields), 1, 8, {role: fewer})


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"encoder": {"name": "convnet_8_2", "norm": "batch"}}, "encoder.features"),
        ({"encoder": {"name": "convnet_4_3", "norm": "batch"}}, "encoder.features"),
        ({"projector": {"hidden": [6], "bottleneck": 3, "out_dim": 50}}, "projector.last.weight"),
    ],
)
def test_weights_of_another_architecture_are_refused(role: str, fields: dict[str, Any], named: str) -> None:
    weights = draw(7, **fields).state_dict()
    with pytest.raises(ValueError, match=f"another architecture: .*{named}"):
        build_pair(spec(), 1, 8, {role: weights})


def test_a_teacher_of_another_width_and_its_student_are_draws_of_their_own() -> None:
    fields: dict[str, Any] = {"student": {"alpha": 1.0}, "seeds": {"teacher": 3, "student": 4}}
    pair = build_pair(spec(teacher={"width": 2.0}, **fields), 1, 8)
    wide = {"encoder": {"name": "convnet_4_2", "norm": "batch", "width": 2.0}}
    assert same(pair.teacher, draw(stream("teacher", 3), **wide))
    assert same(pair.student, draw(stream("student", 4)))
    assert pair.teacher.encoder.embed_dim == 2 * pair.student.encoder.embed_dim
    taken = draw(9, **wide).state_dict()
    assert equal(build_pair(spec(teacher={"width": 2.0}, **fields), 1, 8, {"teacher": taken}).teacher, taken)
