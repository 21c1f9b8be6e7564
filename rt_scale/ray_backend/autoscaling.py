"""Whether an autoscaler may add nodes to a cluster, and of which kinds.

Ray 2.60 says neither in one place: what it does say is put together here.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.experimental.internal_kv import _internal_kv_get

from rt_scale.ray_backend.resources import Node, same_kind

LAUNCHED = 2
"""Workers that Ray's launcher adds at most where its file does not say."""


def node_kinds(address: str) -> list[Node] | None:
    """The kinds of node that may be added to the connected cluster.

    Args:
        address: of its GCS, ``host:port``.

    Returns:
        Kinds, each with the number that there can be of it; none where there is an autoscaler that does not say;
        None where there is no autoscaler.
    """
    file = _launcher_file(address)
    if file is not None:
        with contextlib.suppress(OSError, yaml.YAMLError, TypeError, ValueError):
            return kinds_of_launcher(yaml.safe_load(file.read_text(encoding="utf-8")))
        return []
    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        groups = config.node_group_configs
        return [Node(g.name, dict(g.resources), math.inf if g.max_count < 0 else g.max_count, False) for g in groups]
    return [] if _autoscaler_reports() else None


def kinds_of_launcher(config: Mapping[str, Any]) -> list[Node]:
    """The kinds of node in a file of Ray's cluster launcher; none where one does not say what it has."""
    most = config.get("max_workers", LAUNCHED)
    kinds = []
    for name, kind in config["available_node_types"].items():
        if not kind.get("resources"):
            return []
        count = min(most, kind.get("max_workers", 0 if name == config.get("head_node_type") else most))
        kinds.append(Node(name, {key: float(amount) for key, amount in kind["resources"].items()}, count, False))
    return kinds


def ever(alive: Sequence[Node], kinds: Sequence[Node]) -> list[Node]:
    """All nodes there can be: kinds as often as they may be or are, and the living nodes that are of none of them."""
    there = [replace(kind, count=max(kind.count, sum(same_kind(node, kind) for node in alive))) for kind in kinds]
    others = [node for node in alive if not any(same_kind(node, kind) for kind in kinds)]
    return others + [kind for kind in there if kind.count]


def _launcher_file(address: str) -> Path | None:
    """The file that the autoscaler of the cluster was started with, where this machine is its head."""
    for words in _command_lines():
        if f"--gcs-address={address}" in words and any(word.endswith("monitor.py") for word in words):
            for word in words:
                option, _, file = word.partition("=")
                if option == "--autoscaling-config" and file:
                    return Path(file).expanduser()
    return None


def _command_lines() -> Iterator[list[str]]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_text(encoding="utf-8", errors="replace").split("\0")


def _autoscaler_reports() -> bool:
    """Whether an autoscaler looks after the cluster: the first writes its kinds of node, the second nothing yet.

    Without one, the same report gives every node a kind of its own.
    """
    report = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if report is None:
        known = ray._raylet
        space, key = known.GCS_AUTOSCALER_STATE_NAMESPACE.encode(), known.GCS_AUTOSCALER_V2_ENABLED_KEY.encode()
        return bool(_internal_kv_get(key, namespace=space) == b"1")
    kinds = (json.loads(report).get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not re.fullmatch(r"node_[0-9a-f]+", kind) for kind in kinds)
