"""A student whose training pass is replayed as CUDA graphs: a small network computes faster than it is issued."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rt_scale.models.pair import FeaturesOfViews, Network
from rt_scale.spec.errors import first_line
from rt_scale.training.whole_batches import WholeBatches

Pass = Callable[..., Tensor]
Capture = Callable[[nn.Module, tuple[Tensor, ...]], Pass]
"""From a module and views, whose memory is its own, to its pass with a gradient. It may run the module meanwhile."""


class GraphedNetwork(WholeBatches):
    """A network that shares another's modules, and whose features of whole batches are one graph forward, one backward.

    Both are captured at the first whole batch, in the precision and for the shapes that it comes in. What a
    capture does to the statistics of batch norms is undone. Features are in the same memory every time: they hold
    until the next whole batch.

    Where the capture fails, batches go module by module: no number depends on it beyond rounding.

    Args:
        network: whose parameters are trained, where they then are; both have the same modules.
        batch_size: images of a whole batch.
        capture: by default CUDA's, see :func:`capture_on_cuda`.

    Attributes:
        plain_because: why there is no graph although one was to be; None while there is no reason.
    """

    def __init__(self, network: Network, batch_size: int, *, capture: Capture | None = None) -> None:
        super().__init__(network, batch_size)
        self._capture = capture or capture_on_cuda
        self._pass: Pass | None = None
        self.plain_because: str | None = None

    def whole_batch(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S] of a whole batch, replayed."""
        if self._pass is None:
            self._pass = self._captured(views)
        return self._pass(*views)

    def _captured(self, views: Sequence[Tensor]) -> Pass:
        buffers = {name: buffer.clone() for name, buffer in self.named_buffers()}
        kind = views[0].device.type
        # Without its cache, whose casts would be made once, in the capture, from weights that then move on.
        dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        features = FeaturesOfViews(Network(self.encoder, self.projector))
        try:
            with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
                return self._capture(features, tuple(view.clone() for view in views))
        except RuntimeError as error:
            self.plain_because = f"its capture failed ({first_line(error)})"
            return lambda *given: self.module_by_module(given)
        finally:
            for name, buffer in self.named_buffers():
                buffer.copy_(buffers[name])


def capture_on_cuda(module: nn.Module, views: tuple[Tensor, ...]) -> Pass:
    """CUDA graphs of a module's pass and of its gradient, by torch; calls of other threads do not disturb them.

    Parameters that the pass does not use, those of the wide output, get no gradient from it.
    """
    graphed = torch.cuda.make_graphed_callables(
        module, views, allow_unused_input=True, capture_error_mode="thread_local"
    )
    return cast(nn.Module, graphed).__call__  # keeps the module, which torch itself does not, and is none
