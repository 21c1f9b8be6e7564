"""Local initialisation for any alpha in [0, 1] (paper, section 4)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rt_scale.models.networks import initialise, local_initialisation
from rt_scale.spec.errors import InputError

ALPHAS = st.floats(0.0, 1.0)
WIDTH = 200
any_time = settings(deadline=None, max_examples=60)


def draw(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Convolution, batch norm and linear layer: every kind of parameter and buffer of our networks."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(WIDTH, WIDTH))
    return initialise(network.to(dtype), torch.Generator().manual_seed(seed))


TEACHER, FRESH = draw(0), draw(1)


def student(alpha: float, teacher: nn.Module = TEACHER, fresh: nn.Module = FRESH) -> dict[str, torch.Tensor]:
    return dict(local_initialisation(teacher, copy.deepcopy(fresh), alpha).named_parameters())


def delta(alpha: float) -> float:
    return math.sqrt(alpha**2 + (1 - alpha) ** 2)


@any_time
@given(ALPHAS)
def test_every_number_is_its_formula(alpha: float) -> None:
    for name, values in student(alpha).items():
        t, f = (network.get_parameter(name) for network in (TEACHER, FRESH))
        expected = (1 - alpha) / delta(alpha) * t + alpha / delta(alpha) * f
        torch.testing.assert_close(values, expected, rtol=1e-13, atol=1e-16)


@any_time
@given(st.integers(0, 2**32), st.integers(0, 2**32), st.sampled_from([torch.float32, torch.float64]))
def test_at_0_the_student_is_the_teacher_bitwise(seed: int, other: int, dtype: torch.dtype) -> None:
    teacher = draw(seed, dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    for name, values in student(0.0, teacher, draw(other, dtype)).items():
        assert torch.equal(values.view(bits), teacher.get_parameter(name).view(bits))


@any_time
@given(ALPHAS)
def test_the_variance_stays_within_sampling_error(alpha: float) -> None:
    """Of independent draws; for alpha in between the term 2 alpha (1 - alpha) cov / delta^2 is one more such error."""
    weight = student(alpha)["3.weight"]
    assert weight.var().item() == pytest.approx(0.02**2, rel=5 * math.sqrt(2) / WIDTH)
    # A layer that is not drawn: both scales are 1, and so the student's is above 1, up to sqrt 2.
    assert student(alpha)["1.weight"].tolist() == pytest.approx([1 / delta(alpha)] * 8)


@any_time
@given(ALPHAS, ALPHAS)
def test_a_greater_alpha_is_farther_from_the_teacher(one: float, other: float) -> None:
    """With correlation (1 - alpha) / delta; distances agree where the alphas are equal to rounding."""
    near, far = sorted((one, other))
    distances = [
        (student(alpha)["3.weight"] - TEACHER.get_parameter("3.weight")).norm().item() for alpha in (near, far)
    ]
    assert distances[0] <= distances[1] * (1 + 1e-12) + 1e-12


@any_time
@given(ALPHAS)
def test_buffers_are_the_teachers_and_the_teacher_is_left_alone(alpha: float) -> None:
    teacher = copy.deepcopy(TEACHER)
    with torch.no_grad():
        teacher.get_buffer("1.running_mean").fill_(0.5)
    before = copy.deepcopy(teacher.state_dict())
    made = local_initialisation(teacher, copy.deepcopy(FRESH), alpha)
    assert (made.get_buffer("1.running_mean") == 0.5).all()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@any_time
@given(st.floats().filter(lambda alpha: not 0 <= alpha <= 1))
def test_everything_else_is_refused(alpha: float) -> None:
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        student(alpha)
