"""SkyPilot's task files: their fields, and rules of ours; SkyPilot itself (460 MB) is not needed."""

from __future__ import annotations

import re
from typing import Any

from rt_scale.clusters.check import rules
from rt_scale.clusters.check.document import Asked, Document, Findings, dig, mapping
from rt_scale.clusters.check.schema import check_schema
from rt_scale.ray_backend.resources import ACCELERATOR, Node
from rt_scale.store.objects.uri import is_address

_TEXT = {"type": ["string", "null"]}
_AMOUNT = {"type": ["string", "number", "null"]}
_RECOVERY: dict[str, Any] = {
    "strategy": _TEXT, "max_restarts_on_errors": {"type": "integer"},
    "recover_on_exit_codes": {"type": ["array", "integer"]},
}  # fmt: skip
_RESOURCES: dict[str, Any] = {
    "cloud": _TEXT, "region": _TEXT, "zone": _TEXT, "infra": _TEXT, "instance_type": _TEXT, "cpus": _AMOUNT,
    "memory": _AMOUNT,
    "accelerators": {"type": ["string", "object", "array", "null"]}, "accelerator_args": {"type": "object"},
    "use_spot": {"type": ["boolean", "null"]}, 
    "job_recovery": {"type": ["string", "object", "null"], "properties": _RECOVERY, "additionalProperties": False},
    "spot_recovery": _TEXT, "disk_size": _AMOUNT,
    "disk_tier": {"enum": ["low", "medium", "high", "ultra", "best", "none"]},
    "network_tier": {"enum": ["standard", "best"]}, "ports": {"type": ["string", "integer", "array"]},
    "labels": {"type": "object"},
    "image_id": {"type": ["string", "object", "null"]}, "max_hourly_cost": {"type": "number"},
    "autostop": {"type": ["boolean", "integer", "string", "object"]}, "priority": {"type": "integer"},
    "priority_class": _TEXT, "volumes": {"type": "array"}, "local_disk": {},
}  # fmt: skip
_FIELDS: dict[str, Any] = {
    "name": _TEXT, "workdir": {"type": ["string", "object", "null"]}, "num_nodes": {"type": "integer", "minimum": 1},
    "setup": _TEXT, "run": _TEXT, "event_callback": _TEXT, "inputs": {"type": "object"}, "outputs": {"type": "object"},
    "envs": {"type": "object"}, "secrets": {"type": "object"}, "file_mounts": {"type": "object"},
    "file_mounts_mapping": {"type": "object"}, "volumes": {"type": "object"}, "service": {"type": "object"},
    "pool": {"type": "object"}, "config": {"type": "object"}, "experimental": {"type": "object"},
    "api_server": {"type": "object"},
}  # fmt: skip
_OPTIONS = {"type": "array", "items": {"type": "object", "properties": _RESOURCES, "additionalProperties": False}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **_FIELDS,
        "resources": {
            "type": "object",
            "properties": {**_RESOURCES, "any_of": _OPTIONS, "ordered": _OPTIONS},
            "additionalProperties": False,
        },
    },
}
"""Fields of a task, as of SkyPilot 0.14."""


def check_task(document: Document, text: str, asked: Asked, found: Findings) -> None:
    """Add the problems of a task file to ``found``."""
    check_schema(SCHEMA, document, found)
    found.checked.append("the fields of SkyPilot's tasks")
    found.unchecked.append("whether a cloud has such machines: sky launch --dryrun FILE asks it")
    if not document.get("run"):
        found.wrong_at(document, ("run",), "missing: the task has nothing to run; add it")
    rules.check_commands(text, found)
    store = rules.store_of(text, asked)[0]
    mounts = mapping(document.get("file_mounts"))
    if store and not is_address(store) and any(store.startswith(str(mount)) for mount in mounts):
        found.unchecked.append(f"whether every node sees the folder {store}, which is a mount")
    else:
        rules.check_store(text, asked, found, folders=False)
    _check_fits(document, asked, found)


RAY = {"A100": ["A100", "A100-40G"], "A100-80GB": ["A100", "A100-80G"]}
"""SkyPilot's names of GPUs -> Ray's, where these differ."""


def _check_fits(document: Document, asked: Asked, found: Findings) -> None:
    resources = document.get("resources")
    if not asked.launches:
        return
    cpus = str(dig(resources, "cpus") or "").rstrip("+")
    if not cpus.isdigit():
        found.unchecked.append("whether runs fit: resources.cpus is not given")
        return
    nodes, line = document.get("num_nodes"), document.line(("resources",))
    count = nodes if isinstance(nodes, int) else 1
    kinds = [
        Node("resources", {"CPU": float(cpus), **gpus}, count) for gpus in _accelerators(dig(resources, "accelerators"))
    ]
    rules.check_fits(asked, [(kind, line) for kind in kinds], found, line)


def _accelerators(given: Any) -> list[dict[str, float]]:
    """Ray's resources of each accelerator that will do: ``A10G``, ``A10G:2``, or a mapping or list of several."""
    pairs = given.items() if isinstance(given, dict) else [str(each).split(":", 1) for each in _several(given)]
    found = []
    for name, *count in pairs:
        number = float(count[0]) if count and re.fullmatch(r"[0-9.]+", str(count[0])) else 1.0
        found.append({"GPU": number, **{f"{ACCELERATOR}{each}": 1.0 for each in RAY.get(name, [name])}})
    return found or [{}]


def _several(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given] if given else []
