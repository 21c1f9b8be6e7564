"""Spot machines first, on AWS as moto plays it in this process; Ray's own provider is real."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws
from moto.core.responses import ActionResult
from moto.ec2.responses.spot_instances import SpotInstances
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND

from rt_scale.ray_backend.spot_first import SPOT, SpotFirstAws, networks
from rt_scale.spec.errors import InputError

REGION = "us-west-2"
PROVIDER = {
    "type": "external",
    "module": "rt_scale.ray_backend.spot_first.SpotFirstAws",
    "region": REGION,
    "cache_stopped_nodes": False,
    "use_internal_ips": True,
    "ssh_from": "203.0.113.7/32",
}
TAGS = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_LAUNCH_CONFIG: "abc"}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        for cache in (resource_cache, client_cache):  # Ray keeps its clients for the whole process
            cache.cache_clear()
        yield boto3.resource("ec2", region_name=REGION)
    for cache in (resource_cache, client_cache):
        cache.cache_clear()


class Market:
    """EC2 that has ``spot`` and ``on_demand`` machines left; notes what was asked for."""

    def __init__(self, provider: SpotFirstAws, spot: int, on_demand: int, code: str) -> None:
        self.left = {True: spot, False: on_demand}
        self.code = code
        self.asked: list[tuple[bool, int]] = []
        self.given = provider.ec2_fail_fast.create_instances
        provider.ec2_fail_fast = SimpleNamespace(create_instances=self.create)

    def create(self, **config: Any) -> list[Any]:
        spot, wanted = SPOT in config, config["MaxCount"]
        if not self.asked or self.asked[-1] != (spot, wanted):
            self.asked.append((spot, wanted))
        gives = min(wanted, self.left[spot])
        if not gives:
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "RunInstances")
        self.left[spot] -= gives
        return list(self.given(**{**config, "MinCount": gives}))


def provider(ec2: Any, spot: int, on_demand: int, code: str = "InsufficientInstanceCapacity") -> tuple[Any, Market]:
    made = SpotFirstAws(PROVIDER, "many")
    return made, Market(made, spot, on_demand, code)


def node_config(ec2: Any) -> dict[str, Any]:
    return {
        "InstanceType": "m5.large",
        "ImageId": next(iter(ec2.images.limit(1))).id,
        "SubnetIds": [subnet.id for subnet in ec2.subnets.all()],
        SPOT: {"MarketType": "spot"},
    }


@pytest.mark.parametrize(
    ("spot", "on_demand", "asked"),
    [
        (3, 0, [(True, 3)]),
        (0, 3, [(True, 3), (False, 3)]),
        (2, 1, [(True, 3), (False, 1)]),
    ],
)
def test_on_demand_as_far_as_there_is_no_spot(ec2: Any, spot: int, on_demand: int, asked: list[Any]) -> None:
    made, market = provider(ec2, spot, on_demand)
    given = made.create_node(node_config(ec2), TAGS, 3)
    assert market.asked == asked
    assert len(given) == 3
    there = sorted(each.instance_lifecycle or "" for each in ec2.instances.all())
    assert there == [""] * on_demand + ["spot"] * spot


def test_spot_again_when_it_is_back(ec2: Any) -> None:
    made, market = provider(ec2, 0, 1)
    made.create_node(node_config(ec2), TAGS, 1)
    market.left[True] = 1
    made.create_node(node_config(ec2), TAGS, 1)
    assert market.asked == [(True, 1), (False, 1), (True, 1)]


@pytest.mark.parametrize(("spot", "on_demand"), [(0, 0), (1, 1), (0, 2)])
def test_too_few_machines_are_said_at_once(ec2: Any, spot: int, on_demand: int) -> None:
    made, _ = provider(ec2, spot, on_demand)
    with pytest.raises(NodeLaunchException) as refused:
        made.create_node(node_config(ec2), TAGS, 3)
    assert refused.value.category == "InsufficientInstanceCapacity"
    assert len(made.non_terminated_nodes({})) == spot + on_demand


def test_a_partial_launch_of_on_demand_machines_is_said(ec2: Any) -> None:
    made, market = provider(ec2, 9, 2)
    config = node_config(ec2)
    del config[SPOT]
    with pytest.raises(NodeLaunchException, match="fewer than 3"):
        made.create_node(config, TAGS, 3)
    assert market.asked == [(False, 3)]


def test_other_refusals_stay_what_they_are(ec2: Any) -> None:
    made, market = provider(ec2, 0, 3, code="UnauthorizedOperation")
    with pytest.raises(NodeLaunchException) as refused:
        made.create_node(node_config(ec2), TAGS, 3)
    assert refused.value.category == "UnauthorizedOperation"
    assert market.asked == [(True, 3)]


def launcher_file(ec2: Any, **provider_keys: Any) -> dict[str, Any]:
    base = {"InstanceType": "m5.large", "KeyName": "mine", "ImageId": "ami-12c6146b"}
    head = {**base, "IamInstanceProfile": {"Name": "head"}}
    return {
        "cluster_name": "many",
        "auth": {"ssh_user": "ubuntu", "ssh_private_key": "~/.ssh/mine"},
        "provider": {**PROVIDER, **provider_keys},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"node_config": head, "resources": {}},
            "spot": {"node_config": {**base, SPOT: {"MarketType": "spot"}}, "resources": {}},
        },
    }


def ssh_blocks(ec2: Any, group: str) -> list[str]:
    rules = [rule for rule in ec2.SecurityGroup(group).ip_permissions if rule.get("FromPort") == 22]
    return sorted(block["CidrIp"] for rule in rules for block in rule["IpRanges"])


def test_ssh_is_open_to_the_networks_named_and_follows_them(ec2: Any) -> None:
    config = SpotFirstAws.bootstrap_config(launcher_file(ec2))
    (group,) = {
        each for kind in config["available_node_types"].values() for each in kind["node_config"]["SecurityGroupIds"]
    }
    assert ssh_blocks(ec2, group) == ["203.0.113.7/32"]
    SpotFirstAws.bootstrap_config(launcher_file(ec2, ssh_from=["198.51.100.0/24", "203.0.113.9/32"]))
    assert ssh_blocks(ec2, group) == ["198.51.100.0/24", "203.0.113.9/32"]
    inside = [rule for rule in ec2.SecurityGroup(group).ip_permissions if rule["UserIdGroupPairs"]]
    assert inside, "nodes reach each other"


def test_security_groups_of_ones_own_stay_as_they_are(ec2: Any) -> None:
    vpc = next(iter(ec2.vpcs.all()))
    mine = ec2.create_security_group(GroupName="mine", Description="mine", VpcId=vpc.id)
    file = launcher_file(ec2, ssh_from=[])
    for kind in file["available_node_types"].values():
        kind["node_config"]["SecurityGroupIds"] = [mine.id]
    SpotFirstAws.bootstrap_config(file)
    assert ec2.SecurityGroup(mine.id).ip_permissions == []


@pytest.mark.parametrize("given", [[], "", "0.0.0.0/0", ["203.0.113.7/32", "0.0.0.0/0"], "::/0", "my house"])
def test_networks_for_ssh_are_named_and_not_the_world(given: Any) -> None:
    with pytest.raises(InputError, match="ssh_from"):
        networks(given)


def test_ssh_from_the_whole_world_is_refused_before_anything_is_made(ec2: Any) -> None:
    with pytest.raises(InputError, match="ssh_from"):
        SpotFirstAws.bootstrap_config(launcher_file(ec2, ssh_from="0.0.0.0/0"))
    assert [group for group in ec2.security_groups.all() if "ray" in group.group_name] == []


def test_an_address_is_a_network_of_its_own() -> None:
    assert networks("203.0.113.7") == {"203.0.113.7/32"}


def test_subnets_of_spot_machines_are_ordered_by_price(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {"us-west-2a": "0.9", "us-west-2b": "0.2", "us-west-2c": "0.5"}  # none in d
    history = [{"AvailabilityZone": zone, "SpotPrice": price} for zone, price in prices.items()]
    monkeypatch.setattr(
        SpotInstances, "describe_spot_price_history", lambda self: ActionResult({"SpotPriceHistory": history})
    )
    kinds = SpotFirstAws.bootstrap_config(launcher_file(ec2))["available_node_types"]
    zones = [ec2.Subnet(subnet).availability_zone for subnet in kinds["spot"]["node_config"]["SubnetIds"]]
    assert zones == ["us-west-2b", "us-west-2c", "us-west-2a", "us-west-2d"]
