"""Spot machines first on GCP: Ray's own classes are real, Compute Engine's answers are given here."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.autoscaler._private.gcp import node_provider
from ray.autoscaler._private.gcp.node import GCPNodeType
from ray.autoscaler.tags import TAG_RAY_NODE_NAME

from rt_scale.ray_backend.spot_first_gcp import SpotFirstCompute, SpotFirstGcp, none_left, on_demand

SPOT = {
    "machineType": "zones/us-west1-a/machineTypes/g2-standard-8",
    "scheduling": {
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "DELETE",
        "onHostMaintenance": "TERMINATE",
    },
}
EXHAUSTED = {"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "none"}]}


class Zone:
    """Answers of Compute Engine in a zone with ``spot`` and ``on_demand`` machines left."""

    def __init__(self, spot: int, on_demand: int, error: dict[str, Any] = EXHAUSTED) -> None:
        self.left = {True: spot, False: on_demand}
        self.error = error
        self.machines: dict[str, bool] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.client = MagicMock()
        self.client.instances().insert.side_effect = self.insert
        self.client.zoneOperations().get.side_effect = lambda operation, **_: self.answer(self.operations[operation])

    @staticmethod
    def answer(what: dict[str, Any]) -> Any:
        return MagicMock(execute=lambda **_: what)

    def insert(self, body: dict[str, Any], **_: Any) -> Any:
        spot, name = body["scheduling"].get("provisioningModel") == "SPOT", f"operation-{len(self.operations)}"
        if self.left[spot]:
            self.left[spot] -= 1
            self.machines[body["name"]] = spot
            self.operations[name] = {"name": name, "status": "DONE"}
        else:
            self.operations[name] = {"name": name, "status": "DONE", "error": self.error}
        assert body["scheduling"]["onHostMaintenance"] == "TERMINATE"
        return self.answer({"name": name})


def compute(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The part of a new provider that launches machines."""
    monkeypatch.setattr(
        node_provider, "construct_clients_from_provider_config", lambda config: (None, None, zone.client, None)
    )
    made = SpotFirstGcp({"project_id": "mine", "availability_zone": "us-west1-a"}, "many")
    assert isinstance(made.resources[GCPNodeType.COMPUTE], SpotFirstCompute)
    return made


LABELS = {TAG_RAY_NODE_NAME: "ray-many-worker"}


@pytest.mark.parametrize(("spot", "expected"), [(3, [True] * 3), (2, [True, True, False]), (0, [False] * 3)])
def test_on_demand_as_far_as_there_is_no_spot(spot: int, expected: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Zone(spot, 3)
    made = compute(zone, monkeypatch).create_node(SPOT, LABELS, 3)
    assert list(zone.machines.values()) == expected
    assert set(made) == set(zone.machines)


def test_spot_again_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Zone(0, 1)
    made = compute(zone, monkeypatch)
    made.create_node(SPOT, LABELS, 1)
    zone.left[True] = 1
    made.create_node(SPOT, LABELS, 1)
    assert list(zone.machines.values()) == [False, True]


def test_no_machine_at_all_and_other_refusals_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="ZONE_RESOURCE_POOL_EXHAUSTED"):
        compute(Zone(0, 0), monkeypatch).create_node(SPOT, LABELS, 1)
    zone = Zone(0, 3, {"errors": [{"code": "RESOURCE_NOT_FOUND", "message": "no such image"}]})
    with pytest.raises(Exception, match="RESOURCE_NOT_FOUND"):
        compute(zone, monkeypatch).create_node(SPOT, LABELS, 1)
    assert zone.machines == {}


def test_on_demand_machines_are_launched_as_ray_does(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = Zone(3, 1)
    compute(zone, monkeypatch).create_node(on_demand(SPOT), LABELS, 1)
    assert list(zone.machines.values()) == [False]


def test_only_answers_of_compute_engine_tell_that_none_is_left() -> None:
    assert none_left(Exception(EXHAUSTED))
    assert not none_left(Exception("ZONE_RESOURCE_POOL_EXHAUSTED"))
    assert not none_left(Exception())
