"""A student's pass over whole batches in fewer launches: as CUDA graphs, or compiled."""

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
"""From a network and the views of a whole batch to its pass."""

SHAPES = 64
"""Different networks and batches that one process compiles for; torch's own limit, 8, would end a sweep's gain."""


def compiled(module: FeaturesOfViews, views: Sequence[Tensor], **options: str) -> Pass:
    """The pass by ``torch.compile``, whose ``options`` are passed on.

    Later networks of that architecture, shape and precision use what was compiled, which torch keeps by code.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    made: Pass = torch.compile(module.forward, dynamic=False, fullgraph=True, **options)  # type: ignore[call-overload]
    return made


def graphed(module: FeaturesOfViews, views: Sequence[Tensor]) -> Pass:
    """The pass by ``torch.cuda.make_graphed_callables``: features are in the same memory every time."""
    gc.collect()  # graphs of earlier runs, which to free during a capture would end it
    device = views[0].device
    # Casting is a part of the graph, without the cache, whose casts would be made once from weights that then move on.
    cast = _Cast(module.network, device.type)
    with torch.cuda.device(device), torch.autocast(device.type, enabled=False):
        torch.cuda.make_graphed_callables(  # in place
            cast,
            tuple(view.clone() for view in views),
            allow_unused_input=True,  # the wide output's parameters, which features do not use
            capture_error_mode="thread_local",  # loaders call CUDA meanwhile
        )
    return cast.__call__


class _Cast(FeaturesOfViews):
    """A network's features in the precision that it was made in, wherever they are computed."""

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
    """A network that shares another's modules, and whose features of whole batches are computed another way.

    The way is prepared at the first whole batch, in the precision and for the shapes that it comes in. Where that
    fails, batches go module by module, with the reason in ``slower_because``; no number depends on it beyond rounding.
    The wide output stays as it is: matrix products, which neither a compiler nor a graph makes faster. So do an
    epoch's last, smaller batch, evaluation mode, and what enters by the encoder or by ``features``, as probes do.

    Args:
        network: whose parameters are trained; both have the same modules.
        batch_size: images of a whole batch.
        way: how whole batches are computed.

    Attributes:
        slower_because: why it does not go that way; None while there is no reason.
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

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Logits [V B, m] of V views [B, C, S, S], all images of the first view first."""
        logits: Tensor = self.projector.logits(self.features_of_views(views))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, m] of images [B, C, H, W]."""
        return self.of_views((images,))

    def _prepared(self, views: Sequence[Tensor]) -> Pass:
        """The pass, forward and backward, after one of each; what that does to batch norms' statistics is undone."""
        module = FeaturesOfViews(Network(self.encoder, self.projector))
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        try:
            made = self._way(module, views)
            features = made(*views)
            torch.autograd.grad(features, trained, torch.zeros_like(features), allow_unused=True)
        except Exception as error:  # of a compiler, a driver or the memory: none is worth a run
            self.slower_because = f"that failed ({type(error).__name__}: {first_line(error)})"
            return module.__call__
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
        return made


def accelerated(network: Network, batch_size: int, how: str) -> Network:
    """``network`` as it is trained, by ``none``, ``compile`` or ``graphs``: itself, or one :class:`Accelerated`."""
    if how == "none":
        return network
    if how not in WAYS:
        raise unknown_name("way to accelerate", how, ("none", *WAYS))
    return Accelerated(network, batch_size, WAYS[how])
