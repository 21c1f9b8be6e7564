"""A node provider of Ray's launcher for GCP: spot machines first, on-demand ones while there are none.

In a launcher file: ``provider: {type: external, module: rt_scale.ray_backend.spot_first_gcp.SpotFirstGcp, region: ...,
availability_zone: ..., project_id: ...}``, with all of Ray's top-level keys.
"""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.gcp.node import GCPCompute, GCPNodeType
from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider

NONE_LEFT = frozenset(
    {"ZONE_RESOURCE_POOL_EXHAUSTED", "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "STOCKOUT", "QUOTA_EXCEEDED"}
)
"""Codes with which Compute Engine says that a zone has no such machine now, or this project may have no more."""
SPOT_ONLY = frozenset({"provisioningModel", "preemptible", "instanceTerminationAction", "automaticRestart"})
"""Keys of ``scheduling`` that on-demand machines do without."""


class SpotFirstCompute(GCPCompute):  # type: ignore[misc]
    """Compute Engine, with on-demand machines where spot ones are missing."""

    def create_instances(
        self, base_config: dict[str, Any], labels: dict[str, str], count: int, wait_for_operation: bool = True
    ) -> list[tuple[dict[str, Any], str]]:
        """Launch ``count`` machines, each with its operation and name; those refused as spot are asked for on-demand.

        Ray waits for one machine after the other and forgets those after the first that was refused; here each is
        waited for.
        """
        if not is_spot(base_config) or not wait_for_operation:
            launched: list[tuple[dict[str, Any], str]] = super().create_instances(
                base_config, labels, count, wait_for_operation
            )
            return launched
        asked = [self.create_instance(base_config, labels, wait_for_operation=False) for _ in range(count)]
        launched = []
        for operation, name in asked:
            try:
                launched.append((self.wait_for_operation(operation), name))
            except Exception as error:  # Ray raises Exception itself, with Compute Engine's answer
                if not none_left(error):
                    raise
        missing = count - len(launched)
        return launched + self.create_instances(on_demand(base_config), labels, missing) if missing else launched


class SpotFirstGcp(GCPNodeProvider):  # type: ignore[misc]
    """Ray's provider for GCP, with on-demand machines where spot ones are missing."""

    def _construct_clients(self) -> None:
        super()._construct_clients()
        ray_one = self.resources[GCPNodeType.COMPUTE]
        self.resources[GCPNodeType.COMPUTE] = SpotFirstCompute(
            ray_one.resource, ray_one.project_id, ray_one.availability_zone, ray_one.cluster_name
        )


def is_spot(node_config: dict[str, Any]) -> bool:
    """Whether a node_config asks for a machine that may be taken away."""
    scheduling = node_config.get("scheduling", {})
    return scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible"))


def on_demand(node_config: dict[str, Any]) -> dict[str, Any]:
    """The same machine on demand; what a GPU needs of ``scheduling`` stays."""
    kept = {key: value for key, value in node_config.get("scheduling", {}).items() if key not in SPOT_ONLY}
    return {**node_config, "scheduling": kept}


def none_left(error: Exception) -> bool:
    """Whether Compute Engine refused a machine as it has none, of all reasons."""
    answer = error.args[0] if error.args else None
    codes = {each.get("code") for each in answer.get("errors", [])} if isinstance(answer, dict) else set()
    return bool(codes) and codes <= NONE_LEFT
