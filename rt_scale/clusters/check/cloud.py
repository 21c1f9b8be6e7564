"""The machines that a launcher file asks of AWS or GCP, by the clouds' own descriptions of their interfaces."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rt_scale.clusters.check.document import Document, Findings, Keys, dig, leaves, mapping, unknown
from rt_scale.clusters.check.schema import check_schema, strict
from rt_scale.spec.errors import InputError, cut, shown

OPEN = ("0.0.0.0/0", "::/0")
"""Networks that are the whole world."""
_OWN_KEYS = {"SubnetIds"}
"""Keys of a node_config that Ray itself reads, and takes out before it asks EC2."""
_WHAT = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    bool: "true or false",
    float: "a number",
}


def check_aws(document: Document, found: Findings, kinds: Mapping[str, Any]) -> None:
    """Add the problems of each kind's ``node_config`` by botocore's model of RunInstances, and of region and zones."""
    from botocore.validate import ParamValidator

    shape, regions = _run_instances()
    for name, kind in kinds.items():
        base: Keys = ("available_node_types", name, "node_config")
        config = mapping(dig(kind, "node_config"))
        asked = {"MinCount": 1, "MaxCount": 1, **{key: each for key, each in config.items() if key not in _OWN_KEYS}}
        for reason, where, more in ParamValidator().validate(asked, shape)._errors:
            keys, text = _aws_text(reason, _keys_of(where), more)
            found.wrong_at(document, (*base, *keys), text)
        for keys, value, allowed in _enums(asked, shape):
            found.wrong_at(document, (*base, *keys), unknown(str(value), allowed, "value"))
    region = document.get("provider", "region")
    if isinstance(region, str) and region not in regions:
        found.wrong_at(document, ("provider", "region"), unknown(region, regions, "region"))
    for zone in re.split(r"\s*,\s*", str(document.get("provider", "availability_zone") or "")):
        if zone and isinstance(region, str) and not re.fullmatch(re.escape(region) + r"(-[a-z0-9-]+)?[a-z]", zone):
            found.wrong_at(
                document, ("provider", "availability_zone"), f"{shown(zone)} is no zone of region '{region}'"
            )
    found.checked.append(
        f"botocore's model of RunInstances, with its {len(shape.members['InstanceType'].enum):,} types"
    )
    found.unchecked.append(
        "whether AWS has what is named here (images, keys, profiles, groups, quotas): nothing asks AWS"
    )


@functools.cache
def _run_instances() -> tuple[Any, list[str]]:
    """Botocore's model of what RunInstances takes, and the regions that have it."""
    import botocore.session

    session = botocore.session.get_session()
    model = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    return model, session.get_available_regions("ec2")


def _keys_of(name: str) -> Keys:
    """Botocore's name of a value, e.g. ``.BlockDeviceMappings[0].Ebs``, as keys."""
    return tuple(int(each) if each.isdigit() else each for each in re.findall(r"[^.\[\]]+", name))


def _aws_text(reason: str, keys: Keys, more: Mapping[str, Any]) -> tuple[Keys, str]:
    if reason == "unknown field":
        return (*keys, more["unknown_param"]), unknown(str(more["unknown_param"]), more["valid_names"])
    if reason == "missing required field":
        return keys, f"{more['required_name']} is missing; add it"
    if reason == "invalid type":
        allowed = " or ".join(_WHAT.get(each, str(each)) for each in _types(more["valid_types"]))
        return keys, f"{shown(more['param'])} was given; allowed: {allowed}"
    return keys, f"{reason}: {cut(', '.join(f'{key} {shown(each)}' for key, each in more.items()), 200)}"


def _types(names: list[str]) -> Iterator[type]:
    """The types that botocore names as ``<class 'str'>``."""
    for each in _WHAT:
        if str(each) in names:
            yield each


def _enums(value: Any, shape: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any, list[str]]]:
    """The values that are none of those that the model lists, which botocore's validator does not look at."""
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for key, each in value.items():
            if key in shape.members:
                yield from _enums(each, shape.members[key], (*keys, key))
    elif shape.type_name == "list" and isinstance(value, list):
        for number, each in enumerate(value):
            yield from _enums(each, shape.member, (*keys, number))
    elif shape.type_name == "string" and isinstance(value, str) and shape.enum and value not in shape.enum:
        yield keys, value, list(shape.enum)


def check_ssh(document: Document, found: Findings, kinds: Mapping[str, Any], *, ours: bool) -> None:
    """Add what opens SSH on AWS to the world; ``ours``: our provider closes it to all but ``provider.ssh_from``."""
    without = [
        name
        for name, kind in kinds.items()
        if not {"SecurityGroupIds", "NetworkInterfaces"} & set(mapping(dig(kind, "node_config")))
    ]
    if without and ours:
        from rt_scale.ray_backend.spot_first import networks

        try:
            networks(document.get("provider", "ssh_from") or [])
        except (InputError, TypeError) as error:
            found.wrong_at(document, ("provider", "ssh_from"), str(error).removeprefix("provider.ssh_from "))
    elif without:
        for name in without:
            found.wrong_at(
                document, ("available_node_types", name, "node_config"),
                "no SecurityGroupIds: Ray makes a group that opens SSH to the whole world (0.0.0.0/0), whatever "
                "provider.security_group says; give a group of your own, or use provider.module "
                "rt_scale.ray_backend.spot_first.SpotFirstAws with ssh_from",
            )  # fmt: skip
    for keys, value in leaves(document.get("provider"), ("provider",)):
        if value in OPEN:
            found.wrong_at(
                document, keys, f"SSH or another port is open to the whole world ({value}); name your own network"
            )


@functools.cache
def _gcp_schema() -> dict[str, Any] | None:
    """The JSON schema of Compute Engine's Instance; None if google-api-python-client is not installed."""
    if importlib.util.find_spec("googleapiclient") is None:
        return None
    found = importlib.util.find_spec("googleapiclient.discovery_cache")
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / "documents" / "compute.v1.json"
    known = json.loads(file.read_text("utf-8"))["schemas"]
    needed, todo = {}, ["Instance"]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed[name] = _json_schema(known[name])
            todo += re.findall(r'"#/definitions/(\w+)"', json.dumps(needed[name]))
    return {**needed["Instance"], "definitions": needed}


def _json_schema(part: Any) -> Any:
    """A part of Google's discovery document as strict JSON schema."""
    if isinstance(part, list):
        return [_json_schema(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    kept: dict[str, Any] = {}
    for key, value in part.items():
        if key == "properties":
            kept[key] = {name: _json_schema(each) for name, each in value.items()}
        elif key == "$ref":
            kept[key] = f"#/definitions/{value}"
        elif key in ("type", "items", "additionalProperties", "enum"):
            kept[key] = _json_schema(value)
    if kept.get("type") == "any":
        del kept["type"]
    elif kept.get("type") == "string" and part.get("format") in ("int64", "uint64"):
        kept["type"] = ["string", "integer"]  # JSON writes 64 bits as text; the interface takes both
    return strict(kept)


def check_gcp(document: Document, found: Findings, kinds: Mapping[str, Any]) -> None:
    """Add the problems of each kind's ``node_config`` by Google's description of Compute Engine, and of the zone."""
    schema = _gcp_schema()
    if schema is None:
        found.unchecked.append(
            "the node_config of each kind, by Google's description of Compute Engine: install the package with "
            "pip install google-api-python-client (17 MB; 'ray up' needs it, too)"
        )
    else:
        extra = {"sourceInstanceTemplate": {"type": "string"}, "networkConfig": {"type": "object"}}
        schema = {**schema, "properties": {**schema["properties"], **extra}}
        for name in [name for name, kind in kinds.items() if mapping(dig(kind, "node_config"))]:
            check_schema(schema, document, found, ("available_node_types", name, "node_config"))
        found.checked.append("Google's description of Compute Engine (compute.v1) on each node_config")
    region, zone = document.get("provider", "region"), document.get("provider", "availability_zone")
    if isinstance(region, str) and isinstance(zone, str) and not zone.startswith(f"{region}-"):
        found.wrong_at(document, ("provider", "availability_zone"), f"{shown(zone)} is no zone of region '{region}'")
    found.unchecked.append(
        "the project, its quotas, images, machine types and the firewall of its network: nothing asks GCP"
    )
