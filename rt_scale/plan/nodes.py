"""How many nodes of one kind to rent for sweeps: the real queue on a simulated clock, node by node."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rt_scale.plan.costs import Price, PriceSheet
from rt_scale.plan.plan import Work
from rt_scale.plan.simulation import simulate
from rt_scale.ray_backend.resources import ACCELERATOR, GIB, MOST, Node, bundle, refuse_unplaceable
from rt_scale.spec.errors import InputError, counted
from rt_scale.spec.run import stream
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.system.console import amount_text

BOOT = 120.0
"""Seconds from the request for a node until runs start on it (assumed)."""
IDLE = 300.0
"""Seconds without a run after which a node is given back: that of the files of ``rt-scale cluster write``."""
SHARE = 0.05
"""Least share of the time that a node more must save, where neither a deadline nor a budget decides."""
ENOUGH = 2.0**60
"""Bytes of memory of a node of which nobody knows how many it has."""
DRAWS = 7
"""Number of simulations with interruptions for each number of nodes; the median counts."""
ROUNDING = 1e-6
"""Tolerance of sums of fractions of a GPU, in the units of a resource."""


@dataclass(frozen=True)
class NodeOffer:
    """A kind of node and what it costs: ``node`` has Ray's resources, ``price`` is for an hour, None if unknown."""

    node: Node
    price: float | None = None
    currency: str = "USD"


def offer_of(price: Price, *, spot: bool = False) -> NodeOffer:
    """The node of a row of a price sheet, at its spot price if ``spot`` and there is one.

    A row says nothing of the type of its GPUs, and nothing of memory if it leaves it out: then it is taken to suffice.
    """
    memory = {"memory": ENOUGH if price.memory is None else price.memory * GIB}
    node = Node(price.name, {"CPU": price.cpus, "GPU": price.gpus, **memory}, told=False)
    return NodeOffer(node, (price.spot if spot and price.spot else None) or price.on_demand, price.currency)


@dataclass(frozen=True)
class NodesPlan:
    """What sweeps take on up to ``nodes`` nodes of one kind, which an autoscaler adds and removes.

    Attributes:
        nodes: most nodes at once.
        hours: until the last run is done, with the start-up of nodes; None if no run has an estimate.
        node_hours: paid, with start-up and idle time until nodes are given back; None likewise.
        cost: of those; None if also the price is unknown.
        currency: of the cost.
        interruptions: of runs, at the planned rate.
        lost_hours: that are computed twice.
        why: why so many nodes, in words.
    """

    nodes: int
    hours: float | None
    node_hours: float | None
    cost: float | None
    currency: str
    interruptions: int
    lost_hours: float
    why: str


@dataclass
class _RentedNode:
    """One node: what is free of it, its runs, since when it is paid and idle, when it is ready, seconds paid before."""

    free: dict[str, float]
    runs: int = 0
    since: float | None = None
    idle: float = 0.0
    ready: float = 0.0
    paid: float = 0.0


class RentedNodes:
    """Up to ``most`` nodes of one kind for simulated runs.

    A node is asked for when a run needs it, ready ``boot`` seconds later, and given back after ``idle`` seconds
    without a run.
    """

    def __init__(self, node: Node, most: int, boot: float = BOOT, idle: float = IDLE) -> None:
        self._kind, self._most, self._boot, self._idle = replace(node, count=most), most, boot, idle
        self._nodes: list[_RentedNode] = []
        self._first: dict[LaunchSpec, int] = {}
        self._workers: dict[LaunchSpec, Mapping[str, float]] = {}

    def refuse_misfit(self, launch: LaunchSpec) -> None:
        """Refuse a run that never fits (InputError)."""
        refuse_unplaceable(launch, [self._kind], "this kind")

    def at_once(self, launch: LaunchSpec) -> int:
        """How many runs of that section fit, each with all of its workers."""
        return max(1, self._most * self._kind.holds(bundle(launch)) // launch.workers)

    def has_room(self, launch: LaunchSpec, running: Mapping[LaunchSpec, int]) -> bool:
        """Whether another one fits."""
        return self._places(launch) is not None

    def occupy(self, launch: LaunchSpec, now: float) -> tuple[float, Sequence[int]]:
        """Take room for a run: when all of its nodes are ready, and the node of each worker."""
        where = self._places(launch)
        assert where is not None  # asked by ``has_room``
        begin = now
        for number in where:
            while number >= len(self._nodes):
                self._nodes.append(_RentedNode(dict(self._kind.resources)))
            node = self._nodes[number]
            if node.since is None or (not node.runs and now > node.idle + self._idle):
                self._give_back(node)
                node.since, node.ready = now, now + self._boot
            begin = max(begin, node.ready)
            self._change(node, launch, 1)
        return begin, where

    def free(self, launch: LaunchSpec, where: Sequence[int], now: float) -> None:
        """Give the room of a run back."""
        for number in where:
            self._change(self._nodes[number], launch, -1)
            self._nodes[number].idle = now
        self._first = {each: min(first, *where) for each, first in self._first.items()}

    @property
    def asked(self) -> int:
        """How many nodes there were at once, at most."""
        return len(self._nodes)

    def paid(self) -> float:
        """Node-seconds that are paid, once all runs have ended."""
        for node in self._nodes:
            self._give_back(node)
        return sum(node.paid for node in self._nodes)

    def _give_back(self, node: _RentedNode) -> None:
        if node.since is not None:
            node.paid += node.idle + self._idle - node.since
            node.since = None

    def _change(self, node: _RentedNode, launch: LaunchSpec, runs: int) -> None:
        node.runs += runs
        for key, amount in self._worker(launch).items():
            node.free[key] -= runs * amount

    def _worker(self, launch: LaunchSpec) -> Mapping[str, float]:
        """What a worker takes of its node; shares of a GPU as large as those that fill one."""
        if launch not in self._workers:
            taken = {key: amount for key, amount in bundle(launch).items() if not key.startswith(ACCELERATOR)}
            if 0 < launch.gpus < 1:
                taken["GPU"] = 1 / int(1 / launch.gpus + ROUNDING)
            self._workers[launch] = taken
        return self._workers[launch]

    def _places(self, launch: LaunchSpec) -> list[int] | None:
        """A node for each worker, the first ones with room; None if there is too little."""
        places: list[int] = []
        begin = self._first.get(launch, 0)
        for number in range(begin, self._most):
            here = self._here(number, launch)
            if here and not places:
                self._first[launch] = number
            places += [number] * min(here, launch.workers - len(places))
            if len(places) == launch.workers:
                return places
        if not places:
            self._first[launch] = self._most
        return None

    def _here(self, number: int, launch: LaunchSpec) -> int:
        """How many workers fit on a node now."""
        if number >= len(self._nodes):
            return self._kind.holds(bundle(launch))
        free = self._nodes[number].free
        return min(int((free[key] + ROUNDING) / amount) for key, amount in self._worker(launch).items())


def choose_nodes(
    work: Work,
    offer: NodeOffer,
    *,
    deadline: float | None = None,
    budget: float | None = None,
    most: int = MOST,
    boot: float = BOOT,
    idle: float = IDLE,
    rate: float = 0.0,
) -> NodesPlan:
    """How many nodes pay off: the fewest that keep the deadline; else the most that keep the budget, as long as they
    save time; else the number from which on a node more saves less than ``SHARE`` of the time.

    Args:
        work: see :func:`rt_scale.plan.plan.work_of`.
        deadline: hours from now.
        budget: in the currency of the offer.
        most: nodes, at most.
        boot: seconds from the request for a node until runs start on it.
        idle: seconds without a run after which it is given back.
        rate: interruptions per hour of a running run.

    Raises:
        InputError: a run fits on no such node, or deadline or budget cannot be kept.
    """
    if budget is not None and offer.price is None:
        raise InputError(f"A budget needs a price, and none is known for {offer.node.name}.")

    @functools.cache
    def on(nodes: int) -> NodesPlan:
        return _simulated(work, offer, nodes, boot, idle, rate)

    if not work.jobs:
        return _by_room(work, offer, most)
    widest = on(most).nodes
    if deadline is not None:
        found = _keeping_deadline(on, widest, deadline, limited=widest == most)
        if budget is not None and (found.cost or 0) > budget:
            amount, given = amount_text(found.cost or 0, offer.currency), amount_text(budget, offer.currency)
            raise InputError(
                f"To end within {deadline:g} h takes {counted(found.nodes, 'node')} ({offer.node.name}) and {amount}, "
                f"above the budget of {given}. Allow more time or money, or make the grid smaller."
            )
    elif budget is not None:
        found = _keeping_budget(on, widest, budget, offer)
    else:
        found = _worthwhile(on, widest)
    if work.unknown:
        found = replace(found, why=f"{found.why}; not counted: {counted(len(work.unknown), 'run')} without an estimate")
    return found


@dataclass(frozen=True)
class OfferPlan:
    """What sweeps take on nodes of one row of a price sheet; ``spot``: the cost at spot prices, with interruptions.

    ``plan`` is None where a run fits on no such node, or the deadline cannot be kept; ``why`` then says so.
    """

    name: str
    plan: NodesPlan | None
    spot: float | None = None
    why: str = ""


def offer_plans(
    work: Work, sheet: PriceSheet, *, most: int | None = None, deadline: float | None = None, rate: float = 0.0
) -> list[OfferPlan]:
    """The work on nodes of each row of a price sheet, with GPUs if runs ask for some, without if none does.

    Args:
        most: nodes, at most.
        deadline: hours; the fewest nodes that keep it are planned, else ``most``.
        rate: interruptions per hour of a running run, on spot nodes.
    """
    found = []
    launches = {job.launch for job in work.jobs.values()}
    for price in sheet.prices:
        if all(price.machines(launch.gpus, launch.cpus) is None for launch in launches):
            continue
        offer = offer_of(price)
        try:
            for launch in launches:
                RentedNodes(offer.node, most or MOST).refuse_misfit(launch)
            if deadline is None:
                plan = nodes_plan(work, offer, most or MOST)
            else:
                plan = choose_nodes(work, offer, deadline=deadline, most=most or MOST)
        except InputError as error:
            found.append(OfferPlan(price.name, None, why=str(error)))
            continue
        spot = nodes_plan(work, offer_of(price, spot=True), plan.nodes, rate=rate).cost if price.spot else None
        found.append(OfferPlan(price.name, plan, spot))
    return found


def nodes_plan(
    work: Work, offer: NodeOffer, nodes: int, *, boot: float = BOOT, idle: float = IDLE, rate: float = 0.0
) -> NodesPlan:
    """What the work takes on up to ``nodes`` nodes; arguments and errors as of :func:`choose_nodes`."""
    return _simulated(work, offer, nodes, boot, idle, rate) if work.jobs else _by_room(work, offer, nodes)


def _simulated(work: Work, offer: NodeOffer, nodes: int, boot: float, idle: float, rate: float) -> NodesPlan:
    """The work on up to so many nodes; with interruptions, the median of some draws."""
    found = []
    for draw in range(DRAWS if rate else 1):
        machines = RentedNodes(offer.node, nodes, boot, idle)
        generator = np.random.default_rng(stream("plan.interruptions", draw)) if rate else None
        schedule = simulate(
            work.jobs, work.estimate, machines, concurrency=work.concurrency, rate=rate, generator=generator,
            replacement=boot, sizes=work.sizes,
        )  # fmt: skip
        outcome, hours = schedule.outcome, machines.paid() / 3600
        cost = None if offer.price is None else hours * offer.price
        found.append(
            NodesPlan(
                machines.asked, outcome.makespan / 3600, hours, cost, offer.currency, outcome.interruptions,
                outcome.lost / 3600, f"at most {counted(nodes, 'node')}",
            )
        )  # fmt: skip
    return sorted(found, key=lambda each: each.hours or 0.0)[len(found) // 2]


def _by_room(work: Work, offer: NodeOffer, most: int) -> NodesPlan:
    """Without any estimate: one node, since nothing says that more pay off."""
    why = f"no run has an estimate ({work.unknown[0]})" if work.unknown else "nothing is left to compute"
    nodes = min(most, 1 if work.unknown else 0)
    return NodesPlan(nodes, None, None, None, offer.currency, 0, 0.0, why)


def _least(widest: int, holds: Callable[[int], bool]) -> int:
    """The least number up to ``widest``, for which it holds, from which on it holds."""
    low, high = 1, widest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _keeping_deadline(on: Callable[[int], NodesPlan], widest: int, deadline: float, *, limited: bool) -> NodesPlan:
    if (quickest := on(widest).hours or 0.0) > deadline:
        more, remedy = ("no more are allowed", " or nodes") if limited else ("more would not be quicker", "")
        raise InputError(
            f"The deadline of {deadline:g} h cannot be kept: by the plan the runs take {quickest:.2g} h on "
            f"{counted(widest, 'node')}, and {more}. Allow more time{remedy}, or make the grid smaller."
        )
    found = on(_least(widest, lambda nodes: (on(nodes).hours or 0.0) <= deadline))
    return replace(found, why=f"the fewest that keep the deadline of {deadline:g} h")


def _keeping_budget(on: Callable[[int], NodesPlan], widest: int, budget: float, offer: NodeOffer) -> NodesPlan:
    given = amount_text(budget, offer.currency)
    cheapest = min((on(nodes) for nodes in {1, widest}), key=lambda each: each.cost or 0.0)
    if (cheapest.cost or 0.0) > budget:
        raise InputError(
            f"The budget of {given} cannot be kept: by the plan the runs cost "
            f"{amount_text(cheapest.cost or 0.0, offer.currency)} on {counted(cheapest.nodes, 'node')} "
            f"({offer.node.name}). Allow more, or make the grid smaller."
        )
    above = _least(widest + 1, lambda nodes: nodes > widest or (on(nodes).cost or 0.0) > budget)
    within = [each for nodes in {1, above - 1, widest} - {0} if ((each := on(nodes)).cost or 0.0) <= budget]
    found = min(within, key=lambda each: each.hours or 0.0)
    fewest = _least(found.nodes, lambda nodes: (on(nodes).hours or 0.0) <= (found.hours or 0.0))
    return replace(on(fewest), why=f"the fastest within the budget of {given}")


def _worthwhile(on: Callable[[int], NodesPlan], widest: int) -> NodesPlan:
    for nodes in range(1, widest):
        hours, further = on(nodes).hours or 0.0, range(nodes + 1, min(widest, nodes + int(1 / SHARE)) + 1)
        if all(hours - (on(more).hours or 0.0) < (more - nodes) * SHARE * hours for more in further):
            return replace(on(nodes), why=f"a node more would save less than {SHARE:.0%} of the time")
    return replace(on(widest), why="as many as runs use at once")
