"""A stand-in for CUDA's graphs of a module's pass, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Graphs:
    """A capture that does with memory what CUDA's graphs do.

    It runs the module before, as a warm-up, and works on the same inputs, features and gradients every time.

    Attributes:
        captured: modules and views.
        replays: of all of them.
        autocast: whether it was on around each capture.
    """

    def __init__(self) -> None:
        self.captured: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
        self.replays = 0
        self.autocast: list[bool] = []

    def __call__(self, module: nn.Module, views: tuple[Tensor, ...]) -> Any:
        self.captured.append((module, views))
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        parameters = tuple(module.parameters())
        features = module(*views).detach()
        gradients = [torch.empty_like(each) for each in parameters]
        graphs = self

        class Replayed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *given: Tensor) -> Tensor:
                for own, value in zip(views, given, strict=False):
                    own.copy_(value)
                graphs.replays += 1
                with torch.enable_grad():
                    ctx.computed = module(*views)
                return features.copy_(ctx.computed.detach()).detach()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Any:
                found = torch.autograd.grad(ctx.computed, parameters, gradient, allow_unused=True)
                into = [
                    None if value is None else own.copy_(value).detach()
                    for own, value in zip(gradients, found, strict=True)
                ]
                return (*[None] * len(views), *into)

        return lambda *given: Replayed.apply(*given, *parameters)
