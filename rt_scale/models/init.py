"""Initialisation from an explicit generator, and local initialisation (paper, section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

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
    # The cut lies 100 sigma out, so this is the truncated normal. torch's own trunc_normal_ is not used:
    # its draws differ between versions (inverse error function, rejection), and so would a run's numbers.
    module.weight.normal_(0.0, _LINEAR_STD, generator=generator).clamp_(-_LINEAR_CUT, _LINEAR_CUT)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _batch_norm(module: nn.Module, generator: torch.Generator) -> None:
    assert isinstance(module, nn.BatchNorm2d)
    # Scale 1, shift 0, running mean 0, running variance 1, none counted: nothing is drawn.
    module.reset_parameters()


_INITIALISERS: dict[type[nn.Module], Callable[[nn.Module, torch.Generator], None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
}


@torch.no_grad()
def initialise(model: Model, generator: torch.Generator) -> Model:
    """Set every parameter and buffer of ``model``, in place, drawing from ``generator`` alone.

    Convolutions are Kaiming normal (fan-out, ReLU gain), linear weights truncated normal (sigma 0.02,
    cut at -2 and 2), biases 0, normalisations 1 and 0. Modules are drawn in the order of
    ``model.modules()``: an encoder's draw does not depend on the projector that follows it.

    Args:
        model: on the generator's device.
        generator: on the CPU where every device is to draw the same.

    Returns:
        ``model``.

    Raises:
        TypeError: a module holds parameters or buffers that no rule covers.
    """
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if not own:
            continue
        initialiser = _INITIALISERS.get(type(module))
        if initialiser is None:
            raise TypeError(f"no initialisation is known for {type(module).__name__} at '{name}'")
        initialiser(module, generator)
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
        raise InputError(
            f"alpha is {alpha}; it must lie in [0, 1]: 0 starts at the teacher, 1 at a fresh draw."
        )
    _same_architecture(teacher, fresh)
    delta = math.sqrt(alpha**2 + (1.0 - alpha) ** 2)
    for parameter, taught in zip(fresh.parameters(), teacher.parameters(), strict=True):
        parameter.mul_(alpha).add_(taught, alpha=1.0 - alpha).div_(delta)
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
