"""Initialisation from an explicit generator, and local initialisation (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.plain import RectifiedLinear
from rt_scale.models.vit import Tokens
from rt_scale.spec.errors import InputError, unknown_name

Model = TypeVar("Model", bound=nn.Module)


def _kaiming(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.Conv2d | RectifiedLinear)
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _linear(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.Linear)
    _truncated_normal(module.weight, generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _torch_linear(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.Linear)
    # torch's default: uniform in +-1/sqrt(inputs) for weights (Kaiming uniform with a = sqrt 5) and biases.
    bound = module.in_features**-0.5
    module.weight.uniform_(-bound, bound, generator=generator)
    if module.bias is not None:
        module.bias.uniform_(-bound, bound, generator=generator)


def _tokens(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, Tokens)
    _truncated_normal(module.class_token, generator)
    _truncated_normal(module.positions, generator)


def _truncated_normal(tensor: Tensor, generator: torch.Generator) -> None:
    # Clamping at 100 sigma equals truncation. torch's trunc_normal_ is not used: its draws differ between versions
    # (inverse error function, rejection), and so would a run's numbers.
    tensor.normal_(0.0, 0.02, generator=generator).clamp_(-2.0, 2.0)


def _normalisation(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, _NORMALISATIONS)
    module.reset_parameters()


_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)
_INITIALISERS: dict[type[nn.Module], Callable[[nn.Module, torch.Generator], None]] = {
    nn.Conv2d: _kaiming,
    nn.Linear: _linear,
    RectifiedLinear: _kaiming,
    Tokens: _tokens,
    **dict.fromkeys(_NORMALISATIONS, _normalisation),
}
"""By type; a subclass uses the rule of its nearest base class."""
_LINEAR = {"trunc_normal": _linear, "torch": _torch_linear}
"""By value of the projector's ``init``."""
_TORCHS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""Parameters and buffers of torch's layers, which the rules cover."""


@torch.no_grad()
def initialise(model: Model, generator: torch.Generator, *, linear: str = "trunc_normal") -> Model:
    """Set every parameter and buffer of ``model``, in place, with random numbers from ``generator`` only.

    Convolutions and an MLP encoder's layers are Kaiming normal (fan-out, ReLU gain). The projector's linear weights
    (paper, appendix E.1) and all of a ViT's, including patch embedding, class token and positions (DeiT, Touvron et
    al. 2020; DINO), are truncated normal (sigma 0.02, cut at -2 and 2). Biases are 0; normalisations have scale 1 and
    shift 0. Modules are drawn in the order of ``model.modules()``: the projector does not affect an encoder's draw.

    Args:
        model: on the generator's device.
        generator: on the CPU if every device should draw the same numbers.
        linear: ``trunc_normal`` as above, or ``torch``, torch's default.

    Raises:
        InputError: another ``linear``.
        TypeError: no rule covers a parameter or buffer.
    """
    if linear not in _LINEAR:
        raise unknown_name("initialisation of linear layers", linear, _LINEAR)
    initialisers = _INITIALISERS | {nn.Linear: _LINEAR[linear]}
    for name, module in model.named_modules():
        own = {key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))}
        if not own:
            continue
        kind = next((each for each in type(module).__mro__ if each in initialisers), None)
        unknown = own if kind is None else set() if kind is type(module) else own - _TORCHS
        if kind is None or unknown:
            raise TypeError(
                f"no initialisation is known for {', '.join(sorted(unknown))} of {type(module).__name__} at '{name}'"
            )
        initialisers[kind](module, generator)
    return model


def local_initialisation(teacher: nn.Module, fresh: Model, alpha: float) -> Model:
    """Move ``fresh`` towards ``teacher``, in place: theta = ((1 - alpha) theta_T + alpha theta~) / delta.

    delta = sqrt(alpha^2 + (1 - alpha)^2) keeps the variance of the parameters (paper, section 4). This applies to all
    parameters, including normalisation scales and biases; buffers become the teacher's. At alpha = 0 the parameters
    equal the teacher's bit for bit.

    Args:
        teacher: a network of the same architecture, dtype and device.
        fresh: theta~, an independent draw of the same initialisation.
        alpha: locality in [0, 1].

    Raises:
        InputError: alpha outside [0, 1].
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}; it must lie in [0, 1]: 0 starts at the teacher, 1 at a fresh draw.")
    return _combine(teacher, fresh, 1.0 - alpha, alpha, math.sqrt(alpha**2 + (1.0 - alpha) ** 2))


def neighbourhood_initialisation(teacher: nn.Module, fresh: Model, epsilon: float) -> Model:
    """Move ``fresh`` near ``teacher``, in place: theta = theta_T + epsilon theta~, for every parameter.

    Unlike in ``local_initialisation``, the variance grows by the factor 1 + epsilon^2. Buffers become the teacher's. At
    epsilon = 0 the result equals the teacher bit for bit.

    Raises:
        InputError: epsilon below 0.
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not epsilon >= 0.0:
        raise InputError(f"epsilon is {epsilon}; it must be at least 0, where 0 starts at the teacher.")
    return _combine(teacher, fresh, 1.0, epsilon, 1.0)


@torch.no_grad()
def _combine(teacher: nn.Module, fresh: Model, of_teacher: float, of_fresh: float, scale: float) -> Model:
    """``fresh`` with parameters (of_fresh ``fresh`` + of_teacher ``teacher``) / scale and the teacher's buffers."""
    taught, given = (
        {(name, tensor.shape) for name, tensor in model.state_dict().items()} for model in (teacher, fresh)
    )
    if taught != given:
        differing = sorted(taught ^ given)
        raise ValueError(f"teacher and student must have one architecture; they differ in {differing[:4]}")
    for parameter, its in zip(fresh.parameters(), teacher.parameters(), strict=True):
        parameter.mul_(of_fresh).add_(its, alpha=of_teacher).div_(scale)
    for buffer, kept in zip(fresh.buffers(), teacher.buffers(), strict=True):
        buffer.copy_(kept)
    return fresh
