"""The living nodes of a Ray cluster, asked of its GCS without joining it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from rt_scale.ray_backend.probe import CONNECT_S, NODES_S, port_answers

ALIVE = 0
"""Ray's state of a node that lives."""


def living_nodes(address: str, token_file: str | None = None) -> dict[str, Mapping[str, float]] | None:
    """The resources of every living node by its address; None if no cluster answers at ``address``, ``host:port``.

    ``token_file``: of the cluster; this process uses it from now on.
    """
    if not port_answers(address):
        return None
    if token_file is not None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
    os.environ |= {"RAY_py_gcs_connect_timeout_s": str(CONNECT_S), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    from ray.exceptions import RayError

    with suppress(RayError):
        found = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=NODES_S).values()
        return {node.node_manager_address: dict(node.resources_total) for node in found if node.state == ALIVE}
    return None
