"""What a trial is told, in plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rt_scale.scheduler.job import Job
from rt_scale.spec.sweep import SweepSpec

if TYPE_CHECKING:
    from rt_scale.ray_backend.cluster import Cluster


@dataclass(frozen=True)
class Place:
    """Where runs are executed and kept.

    Attributes:
        store: the store, as other processes open it.
        data_dir: where prepared data sets are, on every node.
        device: as ``Options.device``.
    """

    store: str
    data_dir: Path
    device: str


def trial_config(
    tasks: Sequence[Job], packing: Mapping[str, Any] | None, place: Place, cluster: Cluster
) -> dict[str, Any]:
    """Everything that the process of a trial needs to execute its run, or its pack of runs.

    Args:
        tasks: one, or runs of one shape and launch section.
        packing: how many of them to train together, where that was measured before.
        place: where they are executed and kept.
        cluster: which they are executed on.
    """
    first = tasks[0]
    config = {
        "spec": first.spec.model_dump(mode="json"),
        "launch": first.launch.model_dump(mode="json"),
        "store": place.store,
        "data_dir": str(place.data_dir.absolute()),
        "device": place.device,
        "local": cluster.local,
        "bundle": cluster.trial_resources(first.launch),
        "judged": _judged(first.sweep),
    }
    if first.launch.pack != 1:
        config |= {"specs": [task.spec.model_dump(mode="json") for task in tasks], "packing": packing}
    return config


def _judged(sweep: SweepSpec | None) -> dict[str, Any] | None:
    """What a run needs that its sweep's rule may end early."""
    if sweep is None or sweep.explore is None or sweep.explore.stop is None:
        return None
    return {"sweep": sweep.name, "explore": sweep.explore.model_dump(mode="json")}
