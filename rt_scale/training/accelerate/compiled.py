"""A student whose training pass is compiled: fewer, larger kernels and less of the interpreter between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rt_scale.models.networks import Network
from rt_scale.training.accelerate.whole_batches import WholeBatches

SHAPES = 64
"""Different networks and batches that one process compiles for; torch's own limit, 8, would end a sweep's gain."""


class CompiledNetwork(WholeBatches):
    """A network that shares another's modules, and whose features of whole batches are compiled.

    Forward and backward pass up to the bottleneck are compiled at the first whole batch; every later network of the
    same architecture, shapes, layout and precision in this process uses what was compiled then, as torch keeps it by
    code and shapes.

    Args:
        network: whose parameters are trained; both have the same modules.
        batch_size: images of a whole batch.
        backend: torch's name of what makes the kernels.
        mode: torch's name of its presets; ``reduce-overhead`` replays CUDA graphs.
    """

    def __init__(
        self, network: Network, batch_size: int, *, backend: str = "inductor", mode: str | None = None
    ) -> None:
        super().__init__(network, batch_size)
        torch._dynamo.config.recompile_limit = SHAPES
        self._compiled = torch.compile(self.module_by_module, dynamic=False, fullgraph=True, backend=backend, mode=mode)

    def whole_batch(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S] of a whole batch, compiled."""
        features: Tensor = self._compiled(views)
        return features
