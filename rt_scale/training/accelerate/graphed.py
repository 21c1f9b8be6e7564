"""A student whose training pass is replayed as CUDA graphs: a small network computes faster than it is issued."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rt_scale.models.networks import FeaturesOfViews, Network
from rt_scale.spec.errors import first_line
from rt_scale.training.accelerate.whole_batches import WholeBatches

WARM_UP = 3
"""Plain passes before a capture: libraries allocate what they need, and choose their kernels, in the first ones."""

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
        features = _Features(Network(self.encoder, self.projector), kind)
        try:
            # Casting is the forward pass's alone, as in a step of any other network.
            with torch.autocast(kind, enabled=False):
                return self._capture(features, tuple(view.clone() for view in views))
        except RuntimeError as error:
            self.plain_because = f"its capture failed ({first_line(error)})"
            return lambda *given: self.module_by_module(given)
        finally:
            for name, buffer in self.named_buffers():
                buffer.copy_(buffers[name])


class _Features(FeaturesOfViews):
    """A network's features in the precision that it was made in, wherever they are computed."""

    def __init__(self, network: Network, kind: str) -> None:
        super().__init__(network)
        # Without the cache, whose casts would be made once, in the capture, from weights that then move on.
        self._cast = functools.partial(
            torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )

    def forward(self, *views: Tensor) -> Tensor:
        with self._cast():
            return super().forward(*views)


class _Graphs(NamedTuple):
    """A pass and its gradient as CUDA graphs, and the memory that they read and write.

    Attributes:
        forward: from ``views`` to ``features``.
        backward: from ``direction`` to ``gradients``.
        views: of a whole batch.
        features: [V B, k], without a history.
        direction: gradient of the features.
        gradients: of the parameters; None where the pass does not use one.
    """

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    views: Sequence[Tensor]
    features: Tensor
    direction: Tensor
    gradients: Sequence[Tensor | None]


class _Replayed(torch.autograd.Function):
    """Features of views, whose gradient reaches the parameters."""

    @staticmethod
    def forward(ctx: Any, graphs: _Graphs, *given: Tensor) -> Tensor:
        for own, view in zip(graphs.views, given, strict=False):  # then come parameters, which are where they were
            own.copy_(view)
        graphs.forward.replay()
        ctx.graphs = graphs
        return graphs.features.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        graphs: _Graphs = ctx.graphs
        graphs.direction.copy_(grads[0])
        graphs.backward.replay()
        # Aliases: an optimiser is through with them before the next replay.
        into = [None if gradient is None else gradient.detach() for gradient in graphs.gradients]
        return (None, *[None] * len(graphs.views), *into)


def capture_on_cuda(module: nn.Module, views: tuple[Tensor, ...]) -> Pass:
    """CUDA graphs of a module's pass and of its gradient; calls of other threads do not disturb their capture.

    What ``torch.cuda.make_graphed_callables`` does, but for three things. It lets other threads call CUDA in every
    release of torch, where its option for that is not in 2.11. Nothing here is in a cycle, so that graphs are freed
    with their network, not whenever the collector comes. And features have no history: its accumulators of gradients
    would belong to the stream of the capture, which every later step would wait for, parameter by parameter.

    Parameters that the pass does not use, those of the wide output, get no gradient from it.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.cuda.device(views[0].device), _no_collection():
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                features = module(*views)
                torch.autograd.grad(features, parameters, torch.ones_like(features), allow_unused=True)
        torch.cuda.synchronize()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # One pool: the second graph reads what the first one keeps, and is always replayed after it.
        options: dict[str, Any] = {"pool": torch.cuda.graph_pool_handle(), "stream": stream}
        with torch.cuda.graph(forward, capture_error_mode="thread_local", **options):
            features = module(*views)
        direction = torch.zeros_like(features)
        with torch.cuda.graph(backward, capture_error_mode="thread_local", **options):
            gradients = torch.autograd.grad(features, parameters, direction, allow_unused=True)
    graphs = _Graphs(forward, backward, views, features.detach(), direction, gradients)
    return lambda *given: _Replayed.apply(graphs, *given, *parameters)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Inside, the collector does not free graphs of earlier runs, which would end a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
