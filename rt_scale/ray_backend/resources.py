"""What a run asks of a cluster, and whether the cluster can ever hold it: by node, not in total."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.sweep import LaunchSpec

Kind = Literal["gpu", "cpu"]
"""What a run occupies."""
ACCELERATOR = "accelerator_type:"
"""What Ray puts before an accelerator's type to name the resource of which such a node has one."""
SHARE = 0.001
"""How much of that resource a worker takes: enough to be placed there, and never missing."""
MOST = 1000
"""Runs together, at most, where nothing else limits them."""
NAMED = 4
"""Equal nodes that a sentence names one by one."""


@dataclass(frozen=True)
class Node:
    """A node, or a kind of node that an autoscaler may add.

    Attributes:
        name: its address, or the name of the kind.
        resources: all that it has, by Ray's names ("CPU", "GPU", "accelerator_type:H100").
        count: how many there can be; math.inf where nothing limits them.
        told: whether ``resources`` names the accelerator, as those of a living node do.
    """

    name: str
    resources: Mapping[str, float]
    count: float = 1
    told: bool = True

    @property
    def accelerators(self) -> list[str]:
        """The types of its accelerators."""
        return [key.removeprefix(ACCELERATOR) for key in self.resources if key.startswith(ACCELERATOR)]

    def holds(self, bundle: Mapping[str, float]) -> int:
        """How many of ``bundle`` fit on one such node."""
        return min(_times(self._has(key), wanted, key == "GPU") for key, wanted in bundle.items() if wanted)

    def _has(self, key: str) -> float:
        if key.startswith(ACCELERATOR) and not self.told and not self.accelerators:
            return self.resources.get("GPU", 0)
        return self.resources.get(key, 0)


def _times(there: float, wanted: float, whole: bool) -> int:
    """How often ``wanted`` is in ``there``; a share of something ``whole`` is never made of parts of two."""
    if whole and wanted < 1:
        return int(there) * _times(1, wanted, False)
    return int(there / wanted + 1e-9)


def same_kind(one: Node, other: Node) -> bool:
    """Whether two nodes have as many CPUs and GPUs."""
    return all(one.resources.get(key, 0) == other.resources.get(key, 0) for key in ("CPU", "GPU"))


def bundle(launch: LaunchSpec) -> dict[str, float]:
    """What one worker of a run takes, by Ray's names; all of it on one node."""
    taken: dict[str, float] = {"CPU": launch.cpus}
    if launch.gpus:
        taken["GPU"] = launch.gpus
    if launch.accelerator:
        taken[f"{ACCELERATOR}{launch.accelerator}"] = SHARE
    return taken


def slots(launch: LaunchSpec, nodes: Sequence[Node]) -> float:
    """How many workers of ``launch`` the nodes hold together."""
    wanted = bundle(launch)
    held = [(node.holds(wanted), node.count) for node in nodes]
    return sum(here * count for here, count in held if here)


def fits_at_once(launch: LaunchSpec, nodes: Sequence[Node]) -> int:
    """How many runs of ``launch`` the nodes hold together, each with all of its workers; at least 1, at most MOST."""
    return int(max(1, min(MOST, slots(launch, nodes) // launch.workers)))


def refuse_nonsense(launch: LaunchSpec) -> None:
    """Refuse shares of a GPU that no cluster gives (InputError)."""
    if launch.gpus % 1 and launch.workers > 1:
        raise InputError(
            f"launch.gpus is {launch.gpus:g} with {launch.workers} workers: two workers of one run would share a GPU, "
            "which NCCL rejects. Give whole GPUs a worker, or one worker."
        )
    if launch.gpus % 1 and launch.gpus > 1:
        raise InputError(
            f"launch.gpus is {launch.gpus:g}: above one, GPUs are given whole. "
            f"Write {math.floor(launch.gpus)} or {math.ceil(launch.gpus)}, or a share below 1."
        )


def refuse_unplaceable(launch: LaunchSpec, nodes: Sequence[Node], where: str) -> None:
    """Refuse a run whose workers the nodes can never hold, however long it waits (InputError).

    Args:
        launch: what a run asks for.
        nodes: all there are, and all kinds that may be added.
        where: the cluster, as a sentence names it, e.g. ``"this machine"``.
    """
    _refuse_accelerator(launch, nodes, where)
    has = f"What there is: {'; '.join(listed(nodes)) or 'no node at all'}."
    room = slots(launch, nodes)
    wanted = _in_words(bundle(launch))
    fields = "launch.gpus or launch.cpus" if launch.gpus else "launch.cpus"
    if not room:
        each = "A run" if launch.workers == 1 else f"Each of the {launch.workers} workers of a run"
        raise InputError(
            f"{each} asks for {wanted} on one node, which no node of {where} can ever give. {has} "
            f"Lower {fields} in the sweep file, or run where a node has more."
        )
    if room < launch.workers:
        raise InputError(
            f"A run asks for {launch.workers} workers of {wanted} each, but {where} has room for {room:g} of them, "
            f"node by node. {has} Lower launch.workers or {fields}, or run where there is more."
        )


def _refuse_accelerator(launch: LaunchSpec, nodes: Sequence[Node], where: str) -> None:
    if launch.accelerator is None or any(node.holds({f"{ACCELERATOR}{launch.accelerator}": SHARE}) for node in nodes):
        return
    known = {name for node in nodes for name in node.accelerators}
    if known:
        hint = f"launch.accelerator is the name that Ray gives the type; {where} has no other."
        raise unknown_name("accelerator", launch.accelerator, known, hint)
    raise InputError(
        f"launch.accelerator is '{launch.accelerator}', but no node of {where} has an accelerator. "
        f"What there is: {'; '.join(listed(nodes))}. Remove launch.accelerator, or run where there is one."
    )


def listed(nodes: Sequence[Node]) -> list[str]:
    """What nodes have, equal ones together, e.g. ``"2 nodes of 8 CPUs, 1 GPU (A100): 10.0.0.2, 10.0.0.3"``."""
    equal: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        equal[_in_words(node.resources)].append(node)
    lines = []
    for has, group in equal.items():
        count = sum(node.count for node in group)
        names = ", ".join(node.name for node in group[:NAMED]) + (", ..." if len(group) > NAMED else "")
        number = "any number of" if math.isinf(count) else "1" if count == 1 else f"up to {count:g}"
        if all(node.count == 1 for node in group):
            number = str(len(group))
        lines.append(f"{number} {'node' if number == '1' else 'nodes'} of {has}: {names}")
    return lines


def described(nodes: Sequence[Node]) -> str:
    """Nodes in one line, e.g. ``"3 nodes, 20 CPUs, 2 GPUs (A100)"``."""
    total: dict[str, float] = defaultdict(float)
    for node in nodes:
        for key, amount in node.resources.items():
            total[key] += amount
    return f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}, {_in_words(total)}"


def _in_words(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs and accelerators; what else there is concerns no run."""
    parts = [f"{resources.get('CPU', 0):g} {'CPU' if resources.get('CPU', 0) == 1 else 'CPUs'}"]
    types = sorted(key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR))
    gpus = resources.get("GPU", 0)
    if gpus or types:
        named = f" ({', '.join(types)})" if types else ""
        parts.append(f"{gpus:g} {'GPU' if 0 < gpus <= 1 else 'GPUs'}{named}")
    return ", ".join(parts)
