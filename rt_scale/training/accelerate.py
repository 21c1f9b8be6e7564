"""A student's pass over whole batches in fewer kernel launches: as CUDA graphs, or compiled."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rt_scale.models.networks import FeaturesOfViews, Network
from rt_scale.spec.errors import first_line, unknown_name

Pass = Callable[..., Tensor]
"""From V views [B, C, S, S] to bottleneck features [V B, k] with a gradient."""
Way = Callable[[FeaturesOfViews, Sequence[Tensor]], Pass]
"""From a network and example views of a whole batch to its pass."""

SHAPES = 64
"""Different networks and batches that one process compiles for; torch's limit, 8, is too low for a sweep."""


def compiled(module: FeaturesOfViews, views: Sequence[Tensor], **options: str) -> Pass:
    """The pass by ``torch.compile`` with ``options``; torch reuses the code for later networks of the same shapes."""
    torch._dynamo.config.recompile_limit = SHAPES
    made: Pass = torch.compile(module.forward, dynamic=False, fullgraph=True, **options)  # type: ignore[call-overload]
    return made


def graphed(module: FeaturesOfViews, views: Sequence[Tensor]) -> Pass:
    """The pass by ``torch.cuda.make_graphed_callables``: every call overwrites the features of the one before."""
    gc.collect()  # freeing graphs of earlier runs during a capture would end the capture
    device = views[0].device
    # Casts belong to the graph, without autocast's cache: cached casts would hold the weights of the first step.
    cast = _Cast(module.network, device.type)
    with torch.cuda.device(device), torch.autocast(device.type, enabled=False):
        torch.cuda.make_graphed_callables(  # in place
            cast,
            tuple(view.clone() for view in views),
            allow_unused_input=True,  # features do not use the parameters of the wide output
            capture_error_mode="thread_local",  # loaders call CUDA meanwhile
        )
    return cast.__call__


class _Cast(FeaturesOfViews):
    """A network's features under the autocast state at construction."""

    def __init__(self, network: Network, kind: str) -> None:
        super().__init__(network)
        self._cast = functools.partial(
            torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )

    def forward(self, *views: Tensor) -> Tensor:
        with self._cast():
            return super().forward(*views)


WAYS: Mapping[str, Way] = {"compile": compiled, "graphs": graphed}


class Accelerated(Network):
    """A network that shares another's modules and computes the features of whole training batches by ``way``.

    The first whole batch prepares the pass, for its precision and shapes. If that fails, batches go module by module,
    and ``slower_because`` (else None) holds the reason; results are equal to rounding. Not accelerated: the wide output
    (matrix products, which gain nothing), an epoch's last, smaller batch, evaluation mode, and calls of the encoder or
    of ``features``, as probes make them.
    """

    def __init__(self, network: Network, batch_size: int, way: Way) -> None:
        super().__init__(network.encoder, network.projector)
        self.batch_size = batch_size
        self.slower_because: str | None = None
        self._way = way
        self._pass: Pass | None = None

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Bottleneck features [V B, k] of V views [B, C, S, S], all images of the first view first."""
        if not self.training or len(views[0]) != self.batch_size:
            return super().features_of_views(views)
        if self._pass is None:
            self._pass = self._prepared(views)
        return self._pass(*views)

    def _prepared(self, views: Sequence[Tensor]) -> Pass:
        """The pass, tried once forward and backward; batch norms' statistics are restored afterwards."""
        module = FeaturesOfViews(Network(self.encoder, self.projector))
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        try:
            made = self._way(module, views)
            features = made(*views)
            torch.autograd.grad(features, trained, torch.zeros_like(features), allow_unused=True)
        except Exception as error:  # no failure of a compiler, a driver or memory may end the run
            self.slower_because = f"its acceleration failed ({type(error).__name__}: {first_line(error)})"
            return module.__call__
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
        return made


def accelerated(network: Network, batch_size: int, how: str) -> Network:
    """``network`` itself for ``none``, or an :class:`Accelerated` one for ``compile`` and ``graphs``."""
    if how == "none":
        return network
    if how not in WAYS:
        raise unknown_name("way to accelerate", how, ("none", *WAYS))
    return Accelerated(network, batch_size, WAYS[how])
