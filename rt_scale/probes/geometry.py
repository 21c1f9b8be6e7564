"""Distances and angles between a network's parameters and earlier ones, or those of another network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rt_scale.training.loop import distance


@torch.no_grad()
def angle(model: nn.Module, reference: Sequence[Tensor]) -> float:
    """The angle in degrees, 0 to 180, between all parameters, as one vector, and ``reference``, one tensor a parameter.

    2 atan2(|a |b| - b |a||, |a |b| + b |a||) in float64 (Kahan), since the arc cosine rounds the small angles, at which
    students start, to zero. 0 if one of the vectors is 0.
    """
    pairs = list(zip(model.parameters(), reference, strict=True))
    length_a, length_b = (_norm([pair[side].double().square().sum() for pair in pairs]) for side in (0, 1))
    minus, plus = [], []
    for a, b in pairs:
        scaled_a, scaled_b = a.double() * length_b, b.double() * length_a
        minus.append((scaled_a - scaled_b).square().sum())
        plus.append((scaled_a + scaled_b).square().sum())
    return math.degrees(2 * torch.atan2(_norm(minus), _norm(plus)).item())


def geometry(model: nn.Module, references: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """``distance/<part>/<name>`` (l2) and ``angle/<part>/<name>`` (degrees) of encoder and projector.

    ``references`` maps a name, e.g. ``from_teacher``, to one tensor for each of the model's parameters, in their order.
    A part without parameters has no values.
    """
    names = [name for name, _ in model.named_parameters()]
    values: dict[str, float] = {}
    for part in ("encoder", "projector"):
        module = model.get_submodule(part)
        for name, reference in references.items():
            there = [tensor for owner, tensor in zip(names, reference, strict=True) if owner.startswith(f"{part}.")]
            if there:
                values[f"distance/{part}/{name}"] = float(distance(module, there))
                values[f"angle/{part}/{name}"] = angle(module, there)
    return values


def _norm(squares: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(squares)).sum().sqrt()
