"""What a run requests of a cluster, and whether the cluster can ever provide it, node by node."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rt_scale.spec.errors import InputError, unknown_name
from rt_scale.spec.sweep import LaunchSpec

ACCELERATOR = "accelerator_type:"
"""Prefix of Ray's resource for an accelerator type; a node with such accelerators has 1 of it."""
GIB = 2**30
"""Bytes of a GiB; Ray counts memory in bytes."""
SHARE = 0.001
"""How much of that resource a worker requests: small, so that it selects the node but never runs out."""
MOST = 1000
"""Upper limit of concurrent runs."""
NAMED = 4
"""How many equal nodes a message lists by name."""


@dataclass(frozen=True)
class Node:
    """A node, or a kind of node that an autoscaler may add (up to ``count``, which may be math.inf).

    ``resources`` has Ray's names ("CPU", "GPU", "memory" in bytes, "accelerator_type:H100"); ``told``: whether these
    name the accelerator.
    """

    name: str
    resources: Mapping[str, float]
    count: float = 1
    told: bool = True

    @property
    def accelerators(self) -> list[str]:
        """Types of its accelerators."""
        return [key.removeprefix(ACCELERATOR) for key in self.resources if key.startswith(ACCELERATOR)]

    def holds(self, bundle: Mapping[str, float]) -> int:
        """How many times ``bundle`` fits on one such node."""
        return min(_times(self._has(key), wanted, key == "GPU") for key, wanted in bundle.items() if wanted)

    def _has(self, key: str) -> float:
        if key.startswith(ACCELERATOR) and not self.told and not self.accelerators:
            return self.resources.get("GPU", 0)
        return self.resources.get(key, 0)


def _times(there: float, wanted: float, whole: bool) -> int:
    """How often ``wanted`` fits in ``there``; where ``whole``, a share never spans two units."""
    if whole and wanted < 1:
        return int(there) * _times(1, wanted, False)
    return int(there / wanted + 1e-9)


def same_kind(one: Node, other: Node) -> bool:
    """Whether two nodes have equal numbers of CPUs and GPUs."""
    return all(one.resources.get(key, 0) == other.resources.get(key, 0) for key in ("CPU", "GPU"))


def bundle(launch: LaunchSpec) -> dict[str, float]:
    """The Ray resources of one worker, all on one node."""
    taken: dict[str, float] = {"CPU": launch.cpus}
    if launch.gpus:
        taken["GPU"] = launch.gpus
    if launch.memory:
        taken["memory"] = math.ceil(launch.memory * GIB)
    if launch.accelerator:
        taken[f"{ACCELERATOR}{launch.accelerator}"] = SHARE
    return taken


def slots(launch: LaunchSpec, nodes: Sequence[Node]) -> float:
    """How many workers of ``launch`` fit on the nodes at once."""
    wanted = bundle(launch)
    held = [(node.holds(wanted), node.count) for node in nodes]
    return sum(here * count for here, count in held if here)


def fits_at_once(launch: LaunchSpec, nodes: Sequence[Node]) -> int:
    """How many runs of ``launch``, with all their workers, fit on the nodes at once; at least 1, at most MOST."""
    return int(max(1, min(MOST, slots(launch, nodes) // launch.workers)))


def refuse_unplaceable(launch: LaunchSpec, nodes: Sequence[Node], where: str) -> None:
    """Refuse a run whose workers can never fit on the nodes (InputError).

    ``nodes`` includes the kinds that may be added; ``where`` names the cluster in messages, e.g. ``"this machine"``.
    """
    _refuse_accelerator(launch, nodes, where)
    has = f"Available: {'; '.join(listed(nodes, memory=bool(launch.memory))) or 'no node'}."
    room = slots(launch, nodes)
    wanted = _in_words(bundle(launch), memory=True)
    asked = [f"launch.{field}" for field in ("memory", "gpus") if getattr(launch, field)]
    fields = " or ".join([*asked, "launch.cpus"])
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
        f"Available: {'; '.join(listed(nodes))}. Remove launch.accelerator, or run where there is one."
    )


def refuse_mig(launch: LaunchSpec, gpus: Iterable[str], where: str) -> None:
    """Refuse a run of several workers where one of the ``gpus``, by their CUDA names, is a MIG device (InputError)."""
    mig = [short_name(name) for name in gpus if name.startswith("MIG-")]
    if mig and launch.workers > 1 and launch.gpus:
        raise InputError(
            f"A run asks for {launch.workers} workers with GPUs, but {where} has MIG devices ({', '.join(mig)}), "
            "between which NCCL does not send. Set launch.workers to 1, or run on whole GPUs."
        )


def short_name(gpu: int | str) -> str:
    """A GPU's number or CUDA name, with the first 8 digits of a UUID, e.g. ``"MIG-41b35014"``."""
    return re.sub(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}", r"\1", str(gpu))


def listed(nodes: Sequence[Node], *, memory: bool = False) -> list[str]:
    """The resources of nodes, equal ones grouped, e.g. ``"2 nodes of 8 CPUs, 1 GPU (A100): 10.0.0.2, 10.0.0.3"``.

    ``memory``: whether their memory is told, too.
    """
    equal: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        equal[_in_words(node.resources, memory=memory)].append(node)
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


def _in_words(resources: Mapping[str, float], *, memory: bool = False) -> str:
    """CPUs, GPUs, accelerators and, if asked for, memory in words; runs request nothing else."""
    parts = [f"{resources.get('CPU', 0):g} {'CPU' if resources.get('CPU', 0) == 1 else 'CPUs'}"]
    types = sorted(key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR))
    gpus = resources.get("GPU", 0)
    if gpus or types:
        named = f" ({', '.join(types)})" if types else ""
        parts.append(f"{gpus:g} {'GPU' if 0 < gpus <= 1 else 'GPUs'}{named}")
    if memory and "memory" in resources:
        parts.append(f"{resources['memory'] / GIB:.3g} GiB of memory")
    return ", ".join(parts)
