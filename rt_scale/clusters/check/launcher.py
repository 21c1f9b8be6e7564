"""Files of Ray's cluster launcher, for AWS and GCP."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rt_scale.clusters.check import rules
from rt_scale.clusters.check.cloud import check_aws, check_gcp, check_ssh
from rt_scale.clusters.check.document import Asked, Document, Findings, dig, listed, mapping, unknown
from rt_scale.clusters.check.schema import check_schema
from rt_scale.clusters.watch import AWS_S, GCP_S
from rt_scale.ray_backend.resources import Node
from rt_scale.spec.errors import shown

CLOUDS = {
    "aws": "aws",
    "gcp": "gcp",
    "rt_scale.ray_backend.spot_first.SpotFirstAws": "aws",
    "rt_scale.ray_backend.spot_first_gcp.SpotFirstGcp": "gcp",
}
"""Ray's providers by type, and ours by module -> the cloud."""
NOTICE = {"aws": AWS_S, "gcp": GCP_S}
"""Seconds between a cloud's notice and the end of a spot machine."""
_SHARED = (
    "type", "module", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "disable_node_updaters",
)  # fmt: skip
_PROVIDER = {
    "aws": (*_SHARED, "security_group", "cloudwatch", "key_pair", "aws_credentials", "ssh_from"),
    "gcp": (*_SHARED, "project_id", "gcp_credentials", "use_external_head_ip"),
}
"""Cloud -> fields of ``provider`` that Ray or our provider reads; Ray's schema allows any."""
RESOURCES = ("CPU", "GPU", "TPU", "memory", "object_store_memory")
"""Ray's own names of resources; others are allowed, unless they look like one of these."""
ALIKE = 0.6
"""How alike two names are, from 0 to 1, that are taken for a slip."""


def check_launcher(document: Document, text: str, asked: Asked, found: Findings) -> None:
    """Add the problems of a launcher file to ``found``."""
    kinds = mapping(document.get("available_node_types"))
    provider = mapping(document.get("provider"))
    cloud = _cloud(document, found)
    prepared = _check_by_ray(document, found)
    if cloud is not None or not (provider.get("type") and (provider["type"] != "external" or provider.get("module"))):
        known = [key for name in ([cloud] if cloud else _PROVIDER) for key in _PROVIDER[name]]
        for key in provider:
            if key not in known:
                found.wrong_at(document, ("provider", key), unknown(str(key), known))
    if cloud == "aws":
        check_aws(document, found, kinds)
        check_ssh(document, found, kinds, ours=provider.get("type") == "external")
    elif cloud == "gcp":
        check_gcp(document, found, kinds)
    _check_kinds(document, kinds, found)
    _check_life(document, kinds, found)
    _look_for_files(document, found)
    _check_credentials(document, kinds, cloud, text, asked, found)
    rules.check_commands(text, found)
    rules.check_drain(text, NOTICE.get(cloud or "", 0), f"the {cloud} notice of a spot machine", found)
    store = rules.check_store(text, asked, found, folders=False)
    _check_store_commands(store, cloud, text, found)
    _check_fits(document, prepared, asked, found)


def _cloud(document: Document, found: Findings) -> str | None:
    """The cloud of the file; None if it is another one, or not known."""
    from rt_scale.ray_backend.launcher import PROVIDERS

    kind, module = document.get("provider", "type"), document.get("provider", "module")
    if kind == "external":
        if module is None:
            found.wrong_at(document, ("provider",), "module is missing, although type is external; add it")
        elif isinstance(module, str) and module.startswith("rt_scale.") and module not in CLOUDS:
            found.wrong_at(
                document, ("provider", "module"), unknown(module, [each for each in CLOUDS if "." in each], "module")
            )
        elif module not in CLOUDS:
            found.unchecked.append(f"the node_config of each kind: nothing is known of the provider {shown(module)}")
        return CLOUDS.get(str(module))
    if isinstance(kind, str) and kind not in PROVIDERS:
        found.wrong_at(document, ("provider", "type"), unknown(kind, PROVIDERS, "provider"))
    elif kind not in CLOUDS and kind is not None:
        found.unchecked.append(
            f"the node_config of each kind: only those of aws and gcp are checked, not of {shown(kind)}"
        )
    return CLOUDS.get(str(kind))


def _check_by_ray(document: Document, found: Findings) -> Mapping[str, Any]:
    """Add what Ray refuses; the file's config with Ray's defaults, empty if it is refused."""
    from rt_scale.ray_backend.launcher import RAY_VERSION, launcher_schema, with_defaults

    schema = launcher_schema()
    before = len(found.problems)
    check_schema(schema, document, found)
    found.checked.append(f"the schema and the checks of Ray {RAY_VERSION}")
    head = document.get("head_node_type")
    kinds = mapping(document.get("available_node_types"))
    if isinstance(head, str) and kinds and head not in kinds:
        found.wrong_at(document, ("head_node_type",), unknown(head, list(kinds), "kind of node"))
    if len(found.problems) > before:
        return {}
    missing: dict[str, Any] = {}
    while True:
        try:
            return with_defaults({**document.value, **missing})
        except KeyError as error:
            name = str(error.args[0])
            if name in missing or name not in schema["properties"]:
                found.wrong(document.line(()), name, "missing; Ray cannot read the file without it")
                return {}
            is_list = name.endswith("_commands") or "$ref" in schema["properties"][name]
            missing[name] = [] if is_list else 2 if name == "max_workers" else {}
            found.wrong(document.line(()), name, "missing: a provider that is external has no default for it; add it")
        except ValueError as error:
            field = next((each for each in schema["properties"] if f"`{each}`" in str(error)), "")
            found.wrong_at(document, (field,) if field else (), f"Ray refuses it: {error}")
            return {}


def _check_kinds(document: Document, kinds: Mapping[str, Any], found: Findings) -> None:
    """Add misspelled resources, and the loss or use of the head by a cluster of spot machines."""
    head = document.get("head_node_type")
    for name, kind in kinds.items():
        for key in mapping(dig(kind, "resources")):
            if key not in RESOURCES and ":" not in str(key) and (close := _alike(str(key), RESOURCES)):
                keys = ("available_node_types", name, "resources", key)
                found.wrong_at(document, keys, f"unknown resource {shown(key)}; did you mean '{close}'?")
    if not any(_is_spot(kind) for kind in kinds.values()):
        return
    base = ("available_node_types", str(head))
    if _is_spot(kinds.get(str(head))):
        found.wrong_at(document, base, "the head is a spot machine: its loss ends the cluster; make it on-demand")
    cores = dig(kinds.get(str(head)), "resources", "CPU")
    started = " ".join(map(str, listed(document.get("head_start_ray_commands"))))
    if head in kinds and cores != 0 and not rules.started_with(started, "num-cpus", "0"):
        found.wrong_at(
            document, (*base, "resources"),
            "the head takes runs, although the workers are spot machines and all depends on the head; write "
            "resources: {CPU: 0}, and --num-cpus=0 in head_start_ray_commands",
        )  # fmt: skip


def _alike(given: str, names: tuple[str, ...]) -> str | None:
    close = difflib.get_close_matches(given.upper(), [each.upper() for each in names], n=1, cutoff=ALIKE)
    return next((each for each in names if close and each.upper() == close[0]), None)


def _is_spot(kind: Any) -> bool:
    config = dig(kind, "node_config")
    scheduling = dig(config, "scheduling")
    return (
        dig(config, "InstanceMarketOptions", "MarketType") == "spot"
        or dig(scheduling, "provisioningModel") == "SPOT"
        or bool(dig(scheduling, "preemptible"))
    )


def _check_life(document: Document, kinds: Mapping[str, Any], found: Findings) -> None:
    """Add clusters that never grow or never shrink."""
    head = document.get("head_node_type")
    if document.get("max_workers") == 0:
        found.wrong_at(document, ("max_workers",), "0 was given: the cluster never gets a worker; give 1 or more")
    workers = {name: kind for name, kind in kinds.items() if name != head}
    if workers and all(dig(kind, "max_workers") == 0 for kind in workers.values()):
        for name in workers:
            keys = ("available_node_types", name, "max_workers")
            found.wrong_at(document, keys, "0 was given: there is never such a worker; give 1 or more")
    idle = document.get("idle_timeout_minutes")
    if idle is None and document.get("provider", "type") == "external":
        found.wrong(document.line(()), "idle_timeout_minutes", "missing: idle machines are never given back; e.g. 5")
    elif isinstance(idle, int | float) and idle > 60:
        found.wrong_at(
            document, ("idle_timeout_minutes",), f"{idle:g} was given: idle machines are paid for so long; e.g. 5"
        )
    for name, kind in workers.items():
        least, most = dig(kind, "min_workers"), dig(kind, "max_workers")
        if isinstance(least, int) and isinstance(most, int) and least > most:
            found.wrong_at(
                document, ("available_node_types", name, "min_workers"), f"{least} was given, above max_workers, {most}"
            )


def _look_for_files(document: Document, found: Findings) -> None:
    """Say which files of this machine are not here; their names may be meant from another folder."""
    local = [*mapping(document.get("file_mounts")).values(), document.get("auth", "ssh_private_key")]
    absent = [each for each in local if isinstance(each, str) and not Path(each).expanduser().exists()]
    if absent:
        found.unchecked.append(f"files that are to be copied from this machine, but are not here: {', '.join(absent)}")


def _check_credentials(
    document: Document, kinds: Mapping[str, Any], cloud: str | None, text: str, asked: Asked, found: Findings
) -> None:
    """Add kinds of node that have no credentials for the store, and keys that are missing for SSH."""
    store, _ = rules.store_of(text, asked)
    field, scheme = {"aws": ("IamInstanceProfile", "s3://"), "gcp": ("serviceAccounts", "gs://")}.get(
        cloud or "", ("", "")
    )
    for name, kind in kinds.items():
        config = mapping(dig(kind, "node_config"))
        keys = ("available_node_types", name, "node_config")
        # Ray makes an account for a head without one, but none for workers.
        if scheme and store.startswith(scheme) and field not in config and name != document.get("head_node_type"):
            found.wrong_at(document, keys, f"no {field}: such nodes have no credentials for {store}; add one")
        own = cloud == "aws" and document.get("auth", "ssh_private_key")
        if own and not {"KeyName", "UserData"} & set(config):
            found.wrong_at(document, keys, "no KeyName, although auth.ssh_private_key is given: Ray needs both; add it")


_FOREIGN = {
    ("aws", "gs"): "GOOGLE_APPLICATION_CREDENTIALS",
    ("gcp", "s3"): "AWS_ACCESS_KEY_ID",
    ("aws", "az"): "AZURE_STORAGE_ACCOUNT_KEY",
    ("gcp", "az"): "AZURE_STORAGE_ACCOUNT_KEY",
}
"""Cloud and scheme of a store that is not its own -> a variable that gives nodes access."""


def _check_store_commands(store: tuple[str, int], cloud: str | None, text: str, found: Findings) -> None:
    variable = _FOREIGN.get((cloud or "", store[0].partition("://")[0]))
    if variable and variable not in text:
        found.wrong(store[1], "store", f"nodes of {cloud} have no credentials for {store[0]}; set {variable} on them")


def _check_fits(document: Document, prepared: Mapping[str, Any], asked: Asked, found: Findings) -> None:
    from rt_scale.ray_backend.cluster import kinds_of_launcher

    if not asked.launches or not prepared:
        return
    nodes = kinds_of_launcher(prepared)
    if not nodes:
        empty = [name for name, kind in prepared["available_node_types"].items() if not kind.get("resources")]
        found.unchecked.append(
            f"whether the runs fit: no resources are written of {', '.join(empty)}; only AWS knows them"
        )
        return
    rules.check_fits(asked, list(_named(document, nodes)), found, document.line(("available_node_types",)))


def _named(document: Document, nodes: list[Node]) -> Iterator[tuple[Node, int]]:
    for node in nodes:
        if node.count and node.name != document.get("head_node_type"):
            yield node, document.line(("available_node_types", node.name))
