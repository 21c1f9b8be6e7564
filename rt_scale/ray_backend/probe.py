"""Probing a Ray cluster before connecting to it: it answers, knows our token, and has our Ray and Python.

Ray waits for minutes where nothing answers, and ends the process where it is refused for its token. So a process of
its own asks first, and is given a few seconds.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from typing import Any

import ray
from ray._common.usage import usage_lib
from ray._private import services
from ray.exceptions import AuthenticationError

from rt_scale.spec.errors import InputError

KNOCK_S = 3.0
"""How long a port may take to answer."""
PATIENCE_S = 2
"""How long Ray may take to connect; it tries three times."""
ASK_S = 25.0
"""How long the process that asks may live, on a machine that is busy."""


def knock(address: str, seconds: float = KNOCK_S) -> bool:
    """Whether something listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def reach(address: str, *, by_variable: bool = False) -> str:
    """The cluster at ``address`` answers, knows our token, has our Ray and Python, and a node on this machine.

    Args:
        address: ``host:port``, or ``auto`` for the cluster that this machine belongs to.
        by_variable: whether RAY_ADDRESS says so, which a refusal then names.

    Returns:
        ``host:port``.

    Raises:
        InputError: saying what is not so.
    """
    try:
        return _reach(address)
    except InputError as error:
        ours = "for a Ray of our own on this machine"
        if by_variable:
            said = f"RAY_ADDRESS is set to '{address}'. {error} Or unset RAY_ADDRESS, or give --address local, {ours}."
        else:
            said = f"{error} Or give --address local {ours}."
        raise InputError(said) from None


def _reach(address: str) -> str:
    if "://" in address:
        raise InputError(
            f"'{address}' is an address of Ray's client or jobs, over which runs cannot be followed. On a node of "
            "the cluster give its own, --address HOST:6379; from elsewhere: ray job submit --address "
            f"{address if address.startswith('http') else 'http://HOST:8265'} -- rt-scale ..."
        )
    if address != "auto":
        _refuse_silence(address)
    answer = _ask(address)
    found = str(answer.get("address", address))
    problem = answer.get("problem")
    if problem == "silent":
        raise _silent(found)
    if problem:
        raise InputError(_WORDS.get(problem, _WORDS["other"]).format(**{**answer, "address": found}))
    ours = {"ray": answer["our_ray"], "python": platform.python_version()}
    for what, name in (("ray", "Ray"), ("python", "Python")):
        if answer[what] != ours[what]:
            raise InputError(
                f"The Ray cluster at {found} has {name} {answer[what]}, this process {name} {ours[what]}; "
                "Ray joins equal ones only. Use the environment that the cluster was started with."
            )
    return found


_WORDS = {
    "nothing": "There is no Ray cluster to be found from this machine. Give its address as HOST:PORT (the port of "
    "'ray start --head', 6379 if none was given).",
    "several": "More than one Ray runs on this machine ({detail}). Give the address of one as HOST:PORT.",
    "no token": "The Ray cluster at {address} wants a token, and there is none here. Copy the token file of its head "
    "(~/.ray/auth_token) to this machine with mode 0600, or name it in RAY_AUTH_TOKEN_PATH.",
    "wrong token": "The Ray cluster at {address} does not accept the token that is kept here. Take the token file of "
    "its head (~/.ray/auth_token), or name it in RAY_AUTH_TOKEN_PATH.",
    "elsewhere": "This machine is no node of the Ray cluster at {address}, and only a node can run a sweep there. Run "
    "the command on one of its nodes, join it (ray start --address={address}), or: ray job submit -- rt-scale ...",
    "other": "The Ray cluster at {address} cannot be joined: {detail}.",
}


def _refuse_silence(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(
            f"'{address}' is no address of a Ray cluster. Write HOST:PORT (the port of 'ray start --head', 6379 if "
            "none was given), or auto for the cluster that this machine belongs to."
        )
    if not knock(address):
        raise _silent(address)


def _silent(address: str) -> InputError:
    return InputError(
        f"No Ray cluster answers at {address}. Look whether its head runs ('ray status' on the head) and can be "
        "reached from here."
    )


def _ask(address: str) -> dict[str, Any]:
    """What a process of its own learns about the cluster; ``problem`` where it cannot be joined."""
    environment = {**os.environ, "RAY_py_gcs_connect_timeout_s": str(PATIENCE_S), "RAY_BACKEND_LOG_LEVEL": "fatal"}
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "rt_scale.ray_backend.probe", address],
            env=environment, capture_output=True, text=True, timeout=ASK_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"problem": "silent"}
    try:
        answer = json.loads(asked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = " ".join((asked.stderr or asked.stdout).split())
        return {"problem": _kind(said), "detail": said[-300:] or f"exit code {asked.returncode}"}
    return dict(answer)


def _kind(said: str) -> str:
    low = said.lower()
    return "wrong token" if "unauthenticated" in low or "authentication token" in low else "other"


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
