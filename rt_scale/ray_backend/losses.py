"""Whether a process ended by itself or with its node, which was preempted or lost."""

from __future__ import annotations

import ray
from ray._private.state import state
from ray.core.generated.common_pb2 import NodeDeathInfo

from rt_scale.ray_backend.probe import port_answers

ANSWER = 2.0
"""Seconds for a node to answer."""


def node_of(actor: ray.actor.ActorHandle) -> str:
    """Ray's id of the node of a living actor."""
    return str(state.actor_table(actor._actor_id.hex())["Address"]["NodeID"])


def address_of(node: str) -> str:
    """The address of the node of that id; the id if it is unknown."""
    return next((str(each["NodeManagerAddress"]) for each in ray.nodes() if each["NodeID"] == node), node)


def living_ids() -> list[str]:
    """Ray's ids of the nodes that Ray takes to be alive."""
    return [each["NodeID"] for each in ray.nodes() if each["Alive"]]


def draining_nodes() -> set[str]:
    """Ray's ids of the nodes that are drained or preempted; one request to the head, about 0.5 ms."""
    return set(state.get_draining_nodes())


def lost_node(node: str) -> str:
    """How the node of that id was lost, e.g. ``its node 10.0.0.3 was preempted``; empty if it is there or unknown.

    Ray declares a node dead after some silence; one whose port is silent counts as lost before.
    """
    known = {each["NodeID"]: each for each in ray.nodes()}
    if node not in known:
        return ""
    found = known[node]
    name = f"its node {found['NodeManagerAddress']}"
    if node in draining_nodes() or found["DeathReason"] == NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED:
        return f"{name} was preempted"
    address = f"{found['NodeManagerAddress']}:{found['NodeManagerPort']}"
    return "" if found["Alive"] and port_answers(address, ANSWER) else f"{name} was lost"
