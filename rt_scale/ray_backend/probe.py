"""Probes a Ray cluster without joining it: whether it answers, accepts our token, has our versions; its nodes.

Ray waits for minutes if nothing answers, and ends the process if its token is refused, so a separate process
(``python -m rt_scale.ray_backend.probe ADDRESS``) probes with short time limits and prints one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from rt_scale.spec.errors import InputError

PORT_S = 3.0
"""Time limit for a port to answer, in seconds."""
CONNECT_S = 2
"""Time limit for Ray to connect, in seconds; it tries three times."""
NODES_S = 4
"""Time limit for the list of nodes, in seconds."""
REGISTERS_S = 15.0
"""Time that a node which has just been started gets to become known to its cluster, in seconds."""
PROCESS_S = 30.0
"""Time limit of the probing process in seconds, enough on a busy machine."""
ALIVE = 0
"""Ray's state of a node that lives."""
_BRIEFLY = {"RAY_py_gcs_connect_timeout_s": str(CONNECT_S), "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Variables with which Ray gives up soon, and says nothing."""


def port_answers(address: str, seconds: float = PORT_S) -> bool:
    """Whether something listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def living_nodes(address: str, token_file: str | None = None) -> dict[str, Mapping[str, float]] | None:
    """The resources of every living node by its address; None if no cluster answers at ``address``, ``host:port``.

    ``token_file``: of the cluster; this process uses it from now on.
    """
    if not port_answers(address):
        return None
    if token_file is not None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token_file}
    os.environ |= _BRIEFLY
    import ray
    from ray.exceptions import RayError

    with suppress(RayError):
        found = ray._raylet.GcsClient(address=address).get_all_node_info(timeout=NODES_S).values()
        return {node.node_manager_address: dict(node.resources_total) for node in found if node.state == ALIVE}
    return None


def probe(address: str, *, by_variable: bool = False) -> str:
    """The ``host:port`` of the cluster at ``address`` (or ``auto``), after checking that this machine can join it.

    ``by_variable``: the address is from RAY_ADDRESS, which an error then names.

    Raises:
        InputError: if it does not answer, has another token, Ray or Python, or no node on this machine.
    """
    try:
        return _probe(address)
    except InputError as error:
        ours = "for a local Ray"
        if by_variable:
            text = f"RAY_ADDRESS is set to '{address}'. {error} Or unset RAY_ADDRESS, or give --address local, {ours}."
        else:
            text = f"{error} Or give --address local {ours}."
        raise InputError(text) from None


def _probe(address: str) -> str:
    if "://" in address:
        raise InputError(
            f"'{address}' is an address of Ray's client or jobs, over which runs cannot be followed. On a node of "
            "the cluster give its own, --address HOST:6379; from elsewhere: ray job submit --address "
            f"{address if address.startswith('http') else 'http://HOST:8265'} -- rt-scale ..."
        )
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise InputError(
                f"'{address}' is no address of a Ray cluster. Write HOST:PORT (the port of 'ray start --head', 6379 "
                "if none was given), or auto for the cluster that this machine belongs to."
            )
        if not port_answers(address):
            raise _refusal("silent", address)
    found = {"address": address, "detail": ""} | _probe_in_process(address)
    if "problem" in found:
        raise _refusal(found["problem"], found["address"], found["detail"])
    for name, theirs, ours in (
        ("Ray", found["ray"], found["our_ray"]),
        ("Python", found["python"], platform.python_version()),
    ):
        if theirs != ours:
            raise InputError(
                f"The Ray cluster at {found['address']} has {name} {theirs}, this process {name} {ours}; "
                "Ray joins equal ones only. Use the environment that the cluster was started with."
            )
    return found["address"]


_REFUSALS = {
    "silent": "No Ray cluster answers at {address}. Check whether its head runs ('ray status' on the head) and can be "
    "reached from here.",
    "nothing": "No Ray cluster was found from this machine. Give its address as HOST:PORT (the port of "
    "'ray start --head', 6379 if none was given).",
    "several": "More than one Ray runs on this machine ({detail}). Give the address of one as HOST:PORT.",
    "no token": "The Ray cluster at {address} requires a token, and there is none here. Copy its head's token file "
    "(~/.ray/auth_token) to this machine with mode 0600, or name it in RAY_AUTH_TOKEN_PATH.",
    "wrong token": "The Ray cluster at {address} does not accept the token of this machine. Take the token file of "
    "its head (~/.ray/auth_token), or name it in RAY_AUTH_TOKEN_PATH.",
    "elsewhere": "This machine is no node of the Ray cluster at {address}, and only a node can run a sweep there. Run "
    "the command on one of its nodes, join it (ray start --address={address}), or: ray job submit -- rt-scale ...",
    "other": "The Ray cluster at {address} cannot be joined: {detail}.",
}


def _refusal(problem: str, address: str, detail: str = "") -> InputError:
    return InputError(_REFUSALS[problem].format(address=address, detail=detail))


def _probe_in_process(address: str) -> dict[str, str]:
    """Run :func:`describe_cluster` in a separate process."""
    environment = {**os.environ, **_BRIEFLY}
    try:
        process = subprocess.run(
            [sys.executable, "-m", "rt_scale.ray_backend.probe", address],
            env=environment, capture_output=True, text=True, timeout=PROCESS_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"problem": "silent"}
    try:
        return dict(json.loads(process.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        output = " ".join((process.stderr or process.stdout).split())
        refused = any(words in output.lower() for words in ("unauthenticated", "authentication token"))
        detail = output[-300:] or f"exit code {process.returncode}"
        return {"problem": "wrong token" if refused else "other", "detail": detail}


def describe_cluster(address: str) -> dict[str, str]:
    """Address and versions of the cluster at ``address``; ``problem``, a key of ``_REFUSALS``, if there is one."""
    import ray
    from ray._common.usage import usage_lib
    from ray._private import services
    from ray.exceptions import AuthenticationError, RpcError

    try:
        found = services.canonicalize_bootstrap_address_or_die(address)
    except ConnectionError as error:
        several = services.find_gcs_addresses()
        return {"problem": "several" if len(several) > 1 else "nothing", "detail": ", ".join(several) or str(error)}
    known = {"address": found, "our_ray": ray.__version__}
    try:
        client = ray._raylet.GcsClient(address=found)
        metadata = usage_lib.get_cluster_metadata(client)
        if metadata is None:
            return known | {"problem": "silent"}
        here = _has_node_here(client, services.find_node_ids)
    except AuthenticationError as error:
        return known | {"problem": "no token" if "currently 'disabled'" in str(error) else "wrong token"}
    except RpcError:
        return known | {"problem": "silent"}
    known |= {"ray": metadata["ray_version"], "python": metadata["python_version"]}
    return known if here else known | {"problem": "elsewhere"}


def _has_node_here(client: Any, on_machine: Callable[[], Iterable[str]]) -> bool:
    """Whether a living node of the cluster is among those ``on_machine``; one that is starting is waited for."""
    end = time.monotonic() + REGISTERS_S
    while True:
        nodes = {node.hex(): info.state for node, info in client.get_all_node_info(timeout=NODES_S).items()}
        here = set(on_machine())
        if any(nodes.get(node) == ALIVE for node in here):
            return True
        if here <= nodes.keys() or time.monotonic() > end:
            return False
        time.sleep(0.2)


if __name__ == "__main__":
    print(json.dumps(describe_cluster(sys.argv[1])))
