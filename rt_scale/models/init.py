"""Initialisation from an explicit generator, and local initialisation (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from rt_scale.models.plain import RectifiedLinear
from rt_scale.models.vit import Tokens
from rt_scale.spec.errors import InputError

_LINEAR_STD = 0.02
_LINEAR_CUT = 2.0

Model = TypeVar("Model", bound=nn.Module)


def _convolution(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.Conv2d)
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
    # torch's own default: uniform in +-1/sqrt(inputs) for weights (Kaiming uniform with a = sqrt 5) and biases.
    bound = module.in_features**-0.5
    module.weight.uniform_(-bound, bound, generator=generator)
    if module.bias is not None:
        module.bias.uniform_(-bound, bound, generator=generator)


def _rectified_linear(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, RectifiedLinear)
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    nn.init.zeros_(module.bias)


def _tokens(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, Tokens)
    _truncated_normal(module.class_token, generator)
    _truncated_normal(module.positions, generator)


def _truncated_normal(tensor: Tensor, generator: torch.Generator) -> None:
    # The cut lies 100 sigma out, so this is the truncated normal. torch's own trunc_normal_ is not used:
    # its draws differ between versions (inverse error function, rejection), and so would a run's numbers.
    tensor.normal_(0.0, _LINEAR_STD, generator=generator).clamp_(-_LINEAR_CUT, _LINEAR_CUT)


def _normalisation(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm | nn.LayerNorm)
    # Scale 1, shift 0; for batch norm running mean 0, running variance 1, none counted. Nothing is drawn.
    module.reset_parameters()


_INITIALISERS: dict[type[nn.Module], Callable[[nn.Module, torch.Generator], None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    RectifiedLinear: _rectified_linear,
    Tokens: _tokens,
    nn.BatchNorm1d: _normalisation,
    nn.BatchNorm2d: _normalisation,
    nn.InstanceNorm2d: _normalisation,
    nn.GroupNorm: _normalisation,
    nn.LayerNorm: _normalisation,
}
"""By type; a subclass is drawn as the nearest of these that it is one of."""
_TORCHS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""Parameters and buffers that torch's own layers have, and rules know."""


@torch.no_grad()
def initialise(model: Model, generator: torch.Generator, *, linear: str = "trunc_normal") -> Model:
    """Set every parameter and buffer of ``model``, in place, drawing from ``generator`` alone.

    Convolutions and an MLP encoder's layers are Kaiming normal (fan-out, ReLU gain). The projector's
    linear weights (paper, appendix E.1) and all of a ViT's, patch embedding, class token and positions
    included (DeiT, Touvron et al. 2020; DINO), are truncated normal (sigma 0.02, cut at -2 and 2).
    Biases are 0, normalisations 1 and 0. Modules are drawn in the order of ``model.modules()``, a shared one
    once: an encoder's draw does not depend on the projector that follows it.

    Args:
        model: on the generator's device.
        generator: on the CPU where every device is to draw the same.
        linear: initialisation of linear layers: ``trunc_normal`` as above, or ``torch``, torch's default.

    Returns:
        ``model``.

    Raises:
        TypeError: a module holds parameters or buffers that no rule covers, a subclass's own ones included.
    """
    initialisers = _INITIALISERS | ({nn.Linear: _torch_linear} if linear == "torch" else {})
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


@torch.no_grad()
def local_initialisation(teacher: nn.Module, fresh: Model, alpha: float) -> Model:
    """Move ``fresh`` towards ``teacher``: theta = ((1 - alpha) theta_T + alpha theta~) / delta.

    delta = sqrt(alpha^2 + (1 - alpha)^2) keeps the variance of the parameters (paper, section 4).
    Applied to every parameter, normalisation scales and biases included; buffers become the
    teacher's. At alpha = 0 the parameters are bitwise the teacher's.

    Args:
        teacher: a network of the same architecture, dtype and device; not changed.
        fresh: theta~, an independent draw of the same initialisation; changed in place.
        alpha: locality in [0, 1].

    Returns:
        ``fresh``.

    Raises:
        InputError: alpha outside [0, 1].
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InputError(f"alpha is {alpha}; it must lie in [0, 1]: 0 starts at the teacher, 1 at a fresh draw.")
    _same_architecture(teacher, fresh)
    delta = math.sqrt(alpha**2 + (1.0 - alpha) ** 2)
    for parameter, taught in zip(fresh.parameters(), teacher.parameters(), strict=True):
        parameter.mul_(alpha).add_(taught, alpha=1.0 - alpha).div_(delta)
    for buffer, kept in zip(fresh.buffers(), teacher.buffers(), strict=True):
        buffer.copy_(kept)
    return fresh


@torch.no_grad()
def neighbourhood_initialisation(teacher: nn.Module, fresh: Model, epsilon: float) -> Model:
    """Move ``fresh`` near ``teacher``: theta = theta_T + epsilon theta~, for every parameter.

    Unlike local initialisation the variance grows, by the factor 1 + epsilon^2; the distance from the teacher is
    epsilon times the norm of the draw. Buffers become the teacher's. At epsilon = 0 bitwise the teacher.

    Args:
        teacher: a network of the same architecture, dtype and device; not changed.
        fresh: theta~, an independent draw of the same initialisation; changed in place.
        epsilon: >= 0.

    Returns:
        ``fresh``.

    Raises:
        InputError: epsilon below 0.
        ValueError: the networks' parameters or buffers differ in name or shape.
    """
    if not epsilon >= 0.0:
        raise InputError(f"epsilon is {epsilon}; it must be at least 0, where 0 starts at the teacher.")
    _same_architecture(teacher, fresh)
    for parameter, taught in zip(fresh.parameters(), teacher.parameters(), strict=True):
        parameter.mul_(epsilon).add_(taught)
    for buffer, kept in zip(fresh.buffers(), teacher.buffers(), strict=True):
        buffer.copy_(kept)
    return fresh


def _same_architecture(teacher: nn.Module, fresh: nn.Module) -> None:
    taught, given = (
        {(name, tensor.shape) for name, tensor in model.state_dict().items()} for model in (teacher, fresh)
    )
    if taught != given:
        differing = sorted(taught ^ given)
        raise ValueError(f"teacher and student must be of one architecture; they differ in {differing[:4]}")
