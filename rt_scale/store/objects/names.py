"""What the objects of a run are, by their keys relative to the run, and which of them a machine's mirror brings."""

from __future__ import annotations

from pathlib import Path

from rt_scale.store.atomic import names_in
from rt_scale.store.checkpoints import MANIFEST
from rt_scale.store.run_dir import ARTIFACTS, CHECKPOINTS, EVENTS, METRICS


def is_manifest(key: str) -> bool:
    """Whether the object is the manifest of a checkpoint, written after its files."""
    parts = key.split("/")
    return len(parts) == 3 and parts[0] == CHECKPOINTS and parts[1].isdigit() and parts[2] == MANIFEST


def is_small(key: str) -> bool:
    """Whether the object is one of a run's files that are kept without a manifest: all but checkpoints and leases."""
    folder, _, name = key.rpartition("/")
    return folder in ("", ARTIFACTS) and bool(name)


def unwanted(curves: bool, events: bool) -> tuple[str, ...]:
    """Starts of the names of small files that are not brought: without ``curves`` also metrics and artifacts."""
    return (METRICS, EVENTS, f"{ARTIFACTS}/") if not curves else () if events else (EVENTS,)


def is_curve(key: str) -> bool:
    """Whether a small file is brought only where curves or artifacts are wanted."""
    return key.startswith(unwanted(curves=False, events=False))


def small_names(folder: Path) -> list[str]:
    """The names in a run's folder, and in that of its artifacts."""
    return [*names_in(folder), *(f"{ARTIFACTS}/{name}" for name in names_in(folder / ARTIFACTS))]
