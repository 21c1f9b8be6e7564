"""Which runs of a plan share a process, as :class:`rt_scale.scheduler.batching.Packs` will hand them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rt_scale.plan.queue import Node
from rt_scale.spec.batching import alone_because, batch_key
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec


def by_process(
    nodes: Sequence[Node], size: Callable[[Node], int], slots: Callable[[LaunchSpec], int]
) -> list[list[Node]]:
    """The runs, those together that one process trains as one batched network; in the order of their first ones.

    Runs are shared out evenly, as far as they are ready at once: a run and one that it starts from are never together.

    Args:
        nodes: runs that there is something to compute of.
        size: runs of its shape in a process, at most.
        slots: how many processes of a launch section there are at once.
    """
    depths: dict[str, int] = {}
    alike: dict[tuple[LaunchSpec, str, int], list[int]] = {}
    packs: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        if node.launch.pack == 1 or alone_because(node.spec):
            packs[place] = [place]
        else:
            alike.setdefault((node.launch, batch_key(node.spec), _depth(node.spec, depths)), []).append(place)
    for (launch, *_), places in alike.items():
        packs |= _shared_out(places, size(nodes[places[0]]), slots(launch))
    return [[nodes[place] for place in packs[first]] for first in sorted(packs)]


def _shared_out(places: list[int], most: int, free: int) -> dict[int, list[int]]:
    """Places by the first of each process; a process that comes first leaves as many to every other free slot."""
    packs = {}
    while places:
        size = min(most, math.ceil(len(places) / max(1, free)))
        packs[places[0]] = places[:size]
        places, free = places[size:], free - 1
    return packs


def _depth(spec: RunSpec, known: dict[str, int]) -> int:
    """Runs that must be done one after the other before this one."""
    if spec.name not in known:
        known[spec.name] = max((1 + _depth(start.run, known) for start in spec.starts), default=0)
    return known[spec.name]
