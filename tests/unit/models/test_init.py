from __future__ import annotations

import pytest
import torch
from torch import nn

from rt_scale.models.networks import initialise, local_initialisation
from rt_scale.spec.errors import InputError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def drawn(seed: int) -> nn.Sequential:
    return initialise(network(), torch.Generator().manual_seed(seed))


def test_every_parameter_and_buffer_is_set() -> None:
    model = network()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 7)
    assert initialise(model, torch.Generator().manual_seed(0)) is model
    state = model.state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert (state["1.weight"] == 1).all()
    assert (state["1.running_var"] == 1).all()
    zeros = ("0.bias", "1.bias", "1.running_mean", "1.num_batches_tracked", "4.bias")
    assert all((state[name] == 0).all() for name in zeros)


def test_draws_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first[0].weight, again[0].weight)
    assert torch.equal(first[4].weight, again[4].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    # The layers above were made on the CPU, where torch initialises them from the global state.
    torch.set_rng_state(before)
    initialise(first, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="PReLU at '1'"):
        initialise(nn.Sequential(nn.ReLU(), nn.PReLU()), torch.Generator())


class Wide(nn.Conv2d):
    """A convolution of somebody's own."""


class Scaled(nn.Conv2d):
    """One with a parameter that no rule knows."""

    def __init__(self, *given: int) -> None:
        super().__init__(*given)
        self.gain = nn.Parameter(torch.ones(1))


def test_a_subclass_is_drawn_as_what_it_is() -> None:
    own, plain = (initialise(layer(3, 4, 3), torch.Generator().manual_seed(0)) for layer in (Wide, nn.Conv2d))
    assert torch.equal(own.weight, plain.weight)
    assert not own.bias.any()


def test_a_parameter_of_its_own_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="gain of Scaled at '0'"):
        initialise(nn.Sequential(Scaled(3, 4, 3)), torch.Generator())


@pytest.mark.parametrize("alpha", [-0.1, 1.0000001, float("nan")])
def test_alpha_lies_between_0_and_1(alpha: float) -> None:
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        local_initialisation(drawn(0), drawn(1), alpha)


def test_the_ends_are_bitwise_the_teacher_and_the_fresh_draw() -> None:
    teacher = drawn(0)
    at_0, at_1 = local_initialisation(teacher, drawn(1), 0.0), local_initialisation(teacher, drawn(1), 1.0)
    for name, parameter in teacher.named_parameters():
        assert torch.equal(at_0.get_parameter(name), parameter)
        assert torch.equal(at_1.get_parameter(name), drawn(1).get_parameter(name))


def test_buffers_are_the_teachers_and_the_teacher_is_left_alone() -> None:
    teacher = drawn(0)
    teacher[1].running_mean.fill_(3.0)
    teacher[1].num_batches_tracked.fill_(5)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    fresh = drawn(1)
    student = local_initialisation(teacher, fresh, 0.5)
    assert student is fresh
    assert (student[1].running_mean == 3).all()
    assert student[1].num_batches_tracked == 5
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_architectures_must_agree() -> None:
    with pytest.raises(ValueError, match="one architecture"):
        local_initialisation(nn.Linear(3, 4), nn.Linear(3, 5), 0.5)
