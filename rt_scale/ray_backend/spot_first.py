"""A node provider of Ray's launcher for AWS: spot machines first, on-demand ones while there are none.

Ray's own asks for spot machines again and again when there are none, takes a launch that gave fewer machines than asked
for complete (for 10 minutes), and opens SSH to the world. In a launcher file, with all of Ray's top-level keys:
``provider: {type: external, module: rt_scale.ray_backend.spot_first.SpotFirstAws, ssh_from: 203.0.113.7/32, ...}``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from botocore.exceptions import ClientError
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, make_ec2_resource
from ray.autoscaler.node_launch_exception import NodeLaunchException

from rt_scale.spec.errors import InputError

NONE_LEFT = frozenset(
    {
        "InsufficientInstanceCapacity", "InsufficientCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow",
        "MaxSpotInstanceCountExceeded",
    }
)  # fmt: skip
"""Codes with which EC2 says that it gives no such machine now, or this account no more spot machines."""
SPOT = "InstanceMarketOptions"
"""The key of RunInstances that asks for spot machines."""


class SpotFirstAws(AWSNodeProvider):  # type: ignore[misc]
    """Ray's provider for AWS, with on-demand machines where spot ones are missing.

    ``provider.ssh_from``: the networks that may use SSH, one or a list, e.g. ``203.0.113.7/32``; for machines without
    ``SecurityGroupIds`` of their own.
    """

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """What Ray does, then SSH closed to all but ``ssh_from``, and the subnets of spot machines by their price now.

        Raises:
            InputError: if ``ssh_from`` is missing, no network, or the whole world.
        """
        kinds = cluster_config["available_node_types"]
        shared = [name for name, kind in kinds.items() if "SecurityGroupIds" not in kind["node_config"]]
        allowed = networks(cluster_config["provider"].get("ssh_from", [])) if shared else set()
        config: dict[str, Any] = AWSNodeProvider.bootstrap_config(cluster_config)
        ec2 = make_ec2_resource(config["provider"]["region"], 3, config["provider"].get("aws_credentials"))
        configs = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
        if shared:
            _close_ssh(ec2, {group for name in shared for group in configs[name]["SecurityGroupIds"]}, allowed)
        for node_config in configs.values():
            if SPOT in node_config:
                _cheapest_first(ec2, node_config)
        return config

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launch ``count`` machines: spot as far as there are any, if ``node_config`` asks for them, then on-demand.

        Raises:
            NodeLaunchException: if fewer than ``count`` could be had; those that were launched stay.
        """
        choices = [node_config]
        if SPOT in node_config:
            choices.append({key: value for key, value in node_config.items() if key != SPOT})
        made: dict[str, Any] = {}
        why = NodeLaunchException("InsufficientInstanceCapacity", f"fewer than {count} machines were given", None)
        for choice in choices:
            try:
                made |= super().create_node(choice, tags, count - len(made))
            except NodeLaunchException as error:
                if error.category not in NONE_LEFT:
                    raise
                why = error
            if len(made) >= count:
                return made
        raise why


def networks(given: str | Collection[str]) -> set[str]:
    """The networks of ``ssh_from`` as CIDR blocks (InputError)."""
    listed = [given] if isinstance(given, str) else [*given]
    try:
        found = {ip_network(each) for each in listed}
    except ValueError as error:
        raise InputError(f"provider.ssh_from: {error}. Give networks like 203.0.113.7/32.") from error
    if not found or any(network.prefixlen == 0 or network.version != 4 for network in found):
        raise InputError(
            f"provider.ssh_from is {given!r}: name the IPv4 networks that may use SSH, e.g. your own address with /32 "
            "(curl https://checkip.amazonaws.com). SSH stays closed to the rest of the world."
        )
    return {str(network) for network in found}


def _close_ssh(ec2: Any, groups: Collection[str], allowed: set[str]) -> None:
    """Let SSH in from ``allowed`` alone: the security group that Ray makes lets it in from anywhere."""
    for group in ec2.security_groups.filter(GroupIds=[*groups]):
        rules = [rule for rule in group.ip_permissions if rule.get("FromPort") == 22]
        there = {block["CidrIp"] for rule in rules for block in rule["IpRanges"]}
        if there - allowed:
            group.revoke_ingress(IpPermissions=[_ssh_rule(there - allowed)])
        if allowed - there:
            group.authorize_ingress(IpPermissions=[_ssh_rule(allowed - there)])


def _ssh_rule(blocks: Collection[str]) -> Mapping[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": block} for block in blocks]}


def _cheapest_first(ec2: Any, node_config: dict[str, Any]) -> None:
    """Order the subnets of a kind by the price of its spot machines now, as Ray tries them in this order."""
    with suppress(ClientError):  # whoever may not see prices keeps the order of availability_zone
        pages = ec2.meta.client.get_paginator("describe_spot_price_history").paginate(
            InstanceTypes=[node_config["InstanceType"]], ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC)
        )
        prices = {
            each["AvailabilityZone"]: float(each["SpotPrice"]) for page in pages for each in page["SpotPriceHistory"]
        }
        subnets = ec2.subnets.filter(SubnetIds=node_config["SubnetIds"])
        price = {subnet.id: prices.get(subnet.availability_zone, math.inf) for subnet in subnets}
        node_config["SubnetIds"].sort(key=price.__getitem__)
