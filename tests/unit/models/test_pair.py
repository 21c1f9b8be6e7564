from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from rt_scale.models.networks import Network, build_network, build_pair, local_initialisation, to_device
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import stream
from tests.unit.models.networks import EVERY_LAYER, draw, same, spec


@pytest.mark.parametrize("encoder", EVERY_LAYER, ids=lambda encoder: "-".join(map(str, encoder.values())))
def test_no_global_random_state_is_touched(encoder: dict[str, Any]) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    build_pair(spec(encoder=encoder), 3, 32)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_a_network_is_its_generators() -> None:
    assert same(draw(0), draw(0))
    assert not same(draw(0), draw(1))


@pytest.mark.parametrize("encoder", EVERY_LAYER, ids=lambda encoder: "-".join(map(str, encoder.values())))
def test_nothing_is_left_unset(encoder: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    to_empty = Network.to_empty

    def to_poison(self: Network, **where: Any) -> Network:
        to_empty(self, **where)
        for tensor in self.state_dict().values():
            tensor.detach().fill_(torch.nan if tensor.is_floating_point() else 7)
        return self

    monkeypatch.setattr(Network, "to_empty", to_poison)
    poisoned = build_network(spec(encoder=encoder), 3, 32, torch.Generator())
    for tensor in poisoned.state_dict().values():
        assert tensor.isfinite().all()
        assert (tensor == 0).all() or tensor.is_floating_point()


def test_networks_are_float32_on_the_cpu_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        other = draw(0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in other.parameters()} == {torch.float32}
    assert {tensor.device.type for tensor in other.parameters()} == {"cpu"}
    assert same(other, draw(0))


def test_channels_and_size_are_the_images() -> None:
    assert build_network(spec(), 3, 32, torch.Generator())(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(InputError, match="at least 2 x 2"):
        build_network(spec(), 3, 1, torch.Generator())


def test_the_encoders_draw_does_not_depend_on_the_projector() -> None:
    wide = draw(0, projector={"hidden": [6], "bottleneck": 3, "out_dim": 50})
    assert same(wide.encoder, draw(0).encoder)
    assert not same(wide.projector, draw(0).projector)


def test_forward_is_the_projector_on_the_encoder() -> None:
    network, images = draw(0).eval(), torch.randn(3, 1, 8, 8)
    features = network.features(images)
    assert torch.equal(features, network.projector.features(network.encoder(images)))
    assert torch.equal(network(images), network.projector.logits(features))


def test_the_pair_is_made_of_two_named_streams() -> None:
    pair = build_pair(spec(seeds={"teacher": 3, "student": 4}), 1, 8)
    teacher, fresh = draw(stream("teacher", 3)), draw(stream("student", 4))
    assert same(pair.teacher, teacher)
    assert same(pair.student, local_initialisation(teacher, fresh, 0.5))


def test_equal_seeds_are_independent_draws() -> None:
    pair = build_pair(spec(student={"alpha": 1.0}), 1, 8)
    assert not same(pair.teacher, pair.student)


def test_at_alpha_0_the_student_is_the_teacher() -> None:
    pair = build_pair(spec(student={"alpha": 0.0}), 1, 8)
    assert same(pair.teacher, pair.student)


def test_at_the_default_alpha_the_student_is_the_teacher_to_rounding() -> None:
    pair = build_pair(spec(student={}), 1, 8)
    for ours, theirs in zip(pair.student.parameters(), pair.teacher.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_teacher_is_frozen_and_the_student_trains() -> None:
    pair = build_pair(spec(), 1, 8)
    assert not any(parameter.requires_grad for parameter in pair.teacher.parameters())
    assert all(parameter.requires_grad for parameter in pair.student.parameters())
    assert not any(module.training for module in pair.teacher.modules())
    assert all(module.training for module in pair.student.modules())


def test_moving_keeps_values_and_lays_convolutions_out_as_images() -> None:
    network = draw(0)
    moved = to_device(network, "cpu", torch.float64)
    assert moved is network
    assert {parameter.dtype for parameter in moved.parameters()} == {torch.float64}
    convolution = moved.get_parameter("encoder.features.3.weight")
    assert convolution.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.is_contiguous()
    assert torch.equal(convolution.float(), draw(0).get_parameter("encoder.features.3.weight"))
    back = to_device(moved, "cpu", channels_last=False).get_parameter("encoder.features.3.weight")
    assert back.is_contiguous()
    assert torch.equal(back.float(), draw(0).get_parameter("encoder.features.3.weight"))
    assert {parameter.dtype for parameter in to_device(draw(0), "cpu").parameters()} == {torch.float32}
    assert to_device(draw(0), torch.device("meta")).get_parameter("projector.last.weight").is_meta


def test_the_authors_vits_share_their_patch_embedding_even_with_an_independent_student() -> None:
    """It is not drawn again in the published code; every other weight is."""
    pair = build_pair(spec(encoder={"name": "vit_tiny", "init": "authors"}, student={"alpha": 1.0}), 3, 16)
    ours = build_pair(spec(encoder={"name": "vit_tiny"}, student={"alpha": 1.0}), 3, 16)
    for pair_of, shared in ((pair, {"embed_patch.weight", "embed_patch.bias"}), (ours, {"embed_patch.bias"})):
        teacher, student = (dict(network.encoder.named_parameters()) for network in pair_of)
        drawn = {name for name, weights in teacher.items() if weights.std() > 0}
        equal = {name for name in drawn if torch.equal(teacher[name], student[name])}
        assert equal == shared & drawn
