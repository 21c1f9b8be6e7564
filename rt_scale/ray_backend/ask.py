"""The process that asks a cluster what it is: one JSON object on standard output, see ``ray_backend.probe``."""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray._common.usage import usage_lib
from ray._private import services
from ray.exceptions import AuthenticationError

SECONDS = 4
"""How long one question may take."""


def main(address: str) -> dict[str, Any]:
    """What the cluster at ``address`` is, or why it cannot be joined."""
    try:
        found = services.canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        several = services.find_gcs_addresses()
        return {"problem": "several" if len(several) > 1 else "nothing", "detail": ", ".join(several) or str(error)}
    known = {"address": found, "our_ray": ray.__version__}
    try:
        client = ray._raylet.GcsClient(address=found)
        metadata = usage_lib.get_cluster_metadata(client)
        here = _on_this_machine(client)
    except AuthenticationError as error:
        tokenless = "currently 'disabled'" in str(error)
        return known | {"problem": "no token" if tokenless else "wrong token"}
    except ray.exceptions.RpcError:
        return known | {"problem": "silent"}
    if metadata is None:
        return known | {"problem": "silent"}
    versions = {"ray": metadata["ray_version"], "python": metadata["python_version"]}
    return known | versions | ({} if here else {"problem": "elsewhere"})


def _on_this_machine(client: Any) -> bool:
    """Whether a living node of the cluster runs on this machine."""
    alive = {node.hex() for node, info in client.get_all_node_info(timeout=SECONDS).items() if info.state == 0}
    return bool(alive & set(services.find_node_ids()))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
