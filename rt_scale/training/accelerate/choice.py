"""How a student's pass over a whole batch is computed: module by module, as CUDA graphs, or compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rt_scale.models.networks import Network
from rt_scale.training.accelerate.compiled import CompiledNetwork
from rt_scale.training.accelerate.graphed import GraphedNetwork
from rt_scale.training.distillation import arithmetic

EAGER, GRAPHED, COMPILED = "eager", "graphed", "compiled"
WAYS: Mapping[str, Callable[[Network, int], Network]] = {
    EAGER: lambda network, batch_size: network,
    GRAPHED: GraphedNetwork,
    COMPILED: CompiledNetwork,
}
"""From a network and the size of a whole batch to one that shares its modules and goes that way."""
ROUNDS = 5
"""Timed passes, after two that prepare."""
PAYS = 1.05
"""How many times faster than the simpler way a way must be: a graph's memory is its own for as long as the run."""
COMPILING = 60.0
"""Seconds that compiling may take; it is tried where a run's passes take ten times as long."""
AGREEMENT = {"float64": 1e-9, "float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}
"""Largest difference of gradients relative to their norm, by precision."""


class Trial(NamedTuple):
    """What was seen of a way.

    Attributes:
        seconds: of a pass forward and backward, the median.
        gradient: of all parameters that the pass has, float [P], to compare with other ways'.
    """

    seconds: float
    gradient: Tensor


def try_out(way: str, network: Network, views: Sequence[Tensor], precision: str) -> Trial:
    """Compute a whole batch that way, some times.

    Args:
        way: one of ``WAYS``.
        network: a student that is not trained any more: statistics of its batch norms change.
        views: of a whole batch, V times [B, C, S, S].
        precision: of the spec.
    """
    device, model = views[0].device, WAYS[way](network, len(views[0]))
    wanted = [each for name, each in network.named_parameters() if not name.startswith("projector.last.")]

    def gradients() -> Sequence[Tensor | None]:
        with arithmetic(precision, device):
            features = model.features_of_views(views)
        direction = torch.linspace(-1, 1, features.numel(), device=device, dtype=features.dtype).view_as(features)
        return torch.autograd.grad(features, wanted, direction, allow_unused=True)

    gradients()
    if isinstance(model, GraphedNetwork) and model.plain_because is not None:
        raise RuntimeError(model.plain_because)  # timed would be what it fell back to
    found = [each.flatten().double() for each in gradients() if each is not None]
    seconds = [_seconds(gradients, device) for _ in range(ROUNDS)]
    return Trial(statistics.median(seconds), torch.cat(found))


def choose(
    trial: Callable[[str], Trial],
    precision: str,
    *,
    steps: int,
    compiling: bool = True,
    earlier: str | None = None,
) -> tuple[str, str]:
    """The name of the fastest way on a GPU, and why: whatever goes wrong with one, a run goes another.

    Args:
        trial: tries a way out; it may raise anything but for the eager one.
        precision: of the spec.
        steps: of the run.
        compiling: whether it may be compiled, which is tried where the run is long.
        earlier: GRAPHED where this run was begun with it, which it then keeps if it can.
    """
    eager = trial(EAGER)
    best, said = (EAGER, eager.seconds), [f"eager {1000 * eager.seconds:.3g} ms a pass"]
    for way in (GRAPHED, COMPILED):
        if way == COMPILED and not (compiling and earlier is None and steps * best[1] > 10 * COMPILING):
            continue
        seconds, words = _judged(way, trial, eager.gradient, AGREEMENT[precision])
        said.append(words)
        if way == earlier and seconds is not None:
            return way, "this run began with it"
        if seconds is not None and seconds * PAYS < best[1]:
            best = way, seconds
    return best[0], ", ".join(said)


def _judged(way: str, trial: Callable[[str], Trial], wanted: Tensor, tolerance: float) -> tuple[float | None, str]:
    """Seconds of a pass that way, or None where it cannot be gone, and both in words."""
    try:
        tried = trial(way)
    except Exception as error:  # of a compiler, a driver or the memory: none is worth a run
        reason = " ".join(str(error).split())[:200]
        return None, f"{way} does not work here ({type(error).__name__}: {reason})"
    difference = float((tried.gradient - wanted).norm() / wanted.norm())
    if not difference < tolerance:
        return None, f"{way} gradients are {difference:.1e} off here"
    return tried.seconds, f"{way} {1000 * tried.seconds:.3g}"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
