"""A student whose training pass is compiled: fewer, larger kernels and less of the interpreter between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rt_scale.models.pair import Network

SHAPES = 64
"""Different networks and batches that one process compiles for; torch's own limit, 8, would end a sweep's gain."""


class CompiledNetwork(Network):
    """A network that shares another's encoder and projector, and whose features of whole batches are compiled.

    Forward and backward pass up to the bottleneck are compiled at the first whole batch; every later network of the
    same architecture, shapes, layout and precision in this process uses what was compiled then, as torch keeps it by
    code and shapes.
    The wide output stays as it is: matrix products, which a compiler does not make faster. So does the last, smaller
    batch of an epoch, as compiling for it would cost as much again, and what enters by the encoder or by
    ``features``, as probes and caches do.

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
        self._compiled = torch.compile(
            super().features_of_views, dynamic=False, fullgraph=True, backend=backend, mode=mode
        )

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S], all images of the first view first."""
        if len(views[0]) != self.batch_size:
            return super().features_of_views(views)
        features: Tensor = self._compiled(views)
        return features

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], all images of the first view first."""
        logits: Tensor = self.projector.logits(self.features_of_views(views))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        return self.of_views((images,))
