"""A student whose training pass is compiled: fewer, larger kernels and less of the interpreter between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rt_scale.models.pair import Network

SHAPES = 64
"""Different networks and batches that one process compiles for; torch's own limit, 8, would end a sweep's gain."""


class CompiledNetwork(Network):
    """A network that shares another's encoder and projector, and whose logits for whole batches are compiled.

    Forward and backward pass are compiled at the first whole batch; every later network of the same architecture,
    shapes, layout and precision in this process uses what was compiled then, as torch keeps it by code and shapes.
    The last, smaller batch of an epoch goes through the network as it is: compiling for it would cost as
    much again. So do probes and caches, which enter by the encoder or by ``features``.

    Args:
        network: whose parameters are trained; both have the same modules.
        batch_size: images of a whole batch.
        backend: torch's name of what makes the kernels.
        mode: torch's name of its presets; ``reduce-overhead`` replays CUDA graphs.
    """

    def __init__(
        self, network: Network, batch_size: int, *, backend: str = "inductor", mode: str | None = None
    ) -> None:
        super().__init__(network.encoder, network.projector)
        self.batch_size = batch_size
        torch._dynamo.config.recompile_limit = SHAPES
        self._compiled = torch.compile(super().of_views, dynamic=False, fullgraph=True, backend=backend, mode=mode)

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], all images of the first view first."""
        if len(views[0]) != self.batch_size:
            return super().of_views(views)
        logits: Tensor = self._compiled(views)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        return self.of_views((images,))
