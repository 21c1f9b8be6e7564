"""The nodes of a cluster for sweeps: what one must hold, which machines of a price sheet suit, how many pay off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rt_scale.plan.costs import Price
from rt_scale.plan.nodes import ENOUGH, NodeOffer, NodesPlan, choose_nodes, offer_of
from rt_scale.plan.plan import Conditions, work_of
from rt_scale.ray_backend.resources import GIB, MOST, Node
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.sweep_runs import SweepRuns


@dataclass(frozen=True)
class NodeShape:
    """The smallest node for a worker of ``launch``, or, if ``whole``, for all workers of a run."""

    launch: LaunchSpec
    whole: bool = False

    @property
    def workers(self) -> int:
        """Workers on it: those of a run, or as many as share a GPU."""
        share = self.launch.gpus
        return max(self.launch.workers if self.whole else 1, int(1 / share + 1e-9) if 0 < share < 1 else 1)

    @property
    def gpus(self) -> int:
        """Its GPUs."""
        return math.ceil(self.launch.gpus * self.workers - 1e-9)

    @property
    def cpus(self) -> int:
        """Its cores."""
        return self.launch.cpus * self.workers

    @property
    def memory(self) -> int | None:
        """Its GiB of memory; None if a worker's are not known."""
        return None if self.launch.memory is None else math.ceil(self.launch.memory * self.workers)

    @property
    def words(self) -> str:
        """What it has, in words."""
        kind = f" {self.launch.accelerator}" if self.launch.accelerator else ""
        memory = f", {self.memory} GiB of memory" if self.memory else ""
        return f"{self.cpus} CPUs, {self.gpus}{kind} GPUs{memory}"

    @property
    def node(self) -> Node:
        """The node with Ray's resources; memory that nobody knows suffices."""
        memory = ENOUGH if self.memory is None else self.memory * GIB
        return Node("node", {"CPU": self.cpus, "GPU": self.gpus, "memory": memory}, told=False)


def suitable(
    prices: Iterable[Price], shape: NodeShape, provider: str | None, *, spot: bool, runs: float = math.inf
) -> list[Price]:
    """The machines that hold such a node, the least price for each of the workers there first, unknown prices last.

    Args:
        provider: who rents them out; None: anyone.
        spot: whether spot prices count, where there are some.
        runs: how many there are, so that no more share a machine.
    """
    wanted = [shape.launch.accelerator] if shape.launch.accelerator else []
    needed = shape.memory or 0

    def suits(price: Price) -> bool:
        large = price.gpus >= shape.gpus and price.cpus >= shape.cpus and (price.memory or math.inf) >= needed
        of_kind = (price.gpus > 0) == (shape.gpus > 0) and price.has(wanted)
        return large and of_kind and provider in (None, price.provider)

    def for_a_worker(price: Price) -> float:
        paid, nodes = offer_of(price, spot=spot).price, price.cpus // shape.cpus
        if shape.gpus:
            nodes = min(nodes, price.gpus // shape.gpus)
        return math.inf if paid is None else paid / min(nodes * shape.workers, runs * shape.launch.workers)

    return sorted(filter(suits, prices), key=for_a_worker)


def plan_nodes(
    sweeps: Sequence[SweepRuns],
    data_dir: Path,
    shape: NodeShape,
    machine: Price | None,
    *,
    spot: bool = True,
    most: int | None = None,
    deadline: float | None = None,
    budget: float | None = None,
    rate: float = 0.0,
    teraflops: float | None = None,
) -> NodesPlan:
    """How many nodes pay off, of the machine or, without one, of the smallest; see ``choose_nodes``.

    Args:
        data_dir: where prepared data is.
        spot: whether spot prices count.
        most: nodes, at most; None: any number.
        deadline: hours.
        budget: in the machine's currency.
        rate: interruptions per hour of a running run.
        teraflops: assumed TFLOP/s of GPUs that are not here.

    Raises:
        InputError: neither deadline nor budget can be kept, a run cannot be planned, or a budget has no price.
    """
    if budget is not None and machine is None:
        raise InputError("--budget needs the price of a machine: name a sheet with one for these runs with --price.")
    offer = NodeOffer(shape.node) if machine is None else offer_of(machine, spot=spot)
    work = work_of(sweeps, data_dir, Conditions(teraflops=teraflops))
    return choose_nodes(work, offer, deadline=deadline, budget=budget, most=most or MOST, rate=rate)
