"""What finished runs in the store say of the time that others will take."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rt_scale.spec.part import Part, json_text
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

MOST = 2000
"""Run directories that are looked at; names are hashes, so the first ones are a fair sample."""
FREE: dict[str, tuple[tuple[str, ...], ...]] = {
    "seeds": (),
    "student": (("alpha",), ("epsilon",), ("start_from",), ("temperature",)),
    "teacher": (("start_from",), ("temperature",), ("momentum",)),
    "train": (("epochs",), ("freeze_last",), ("optimizer", "lr"), ("optimizer", "weight_decay")),
    "probe": (("every",), ("lr",), ("l2",)),
    "objective": (("label_noise",),),
    "data": (("sigma",),),
    "projector": (("init",),),
}
"""Fields of a spec's parts that do not change what a step or a probing costs; without any, the whole part."""


def shape(spec: RunSpec) -> str:
    """Equal for runs whose steps cost the same, and whose probings do: the canonical spec without ``FREE``, as JSON."""
    values = ((name, getattr(spec, name)) for name in RunSpec.model_fields)
    texts = (
        (name, _without_free(name, value.canonical_text if isinstance(value, Part) else json_text(value)))
        for name, value in values
        if name not in FREE or FREE[name]
    )
    return "{" + ",".join(f'"{name}":{text}' for name, text in texts if text != "{}") + "}"


@functools.lru_cache(maxsize=4096)  # parts are shared by the runs of a grid
def _without_free(name: str, text: str) -> str:
    value = json.loads(text)
    for *path, last in FREE.get(name, ()):
        part = value
        for each in path:
            part = part.get(each, {})
        part.pop(last, None)
    return json_text(value)


@dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
        spec: the run.
        seconds: that it took.
        kind: of the device that it ran on: ``cpu`` or ``gpu``.
        threads: CPU threads that it computed with; of several workers, each.
        workers: processes that computed it together.
        device: name of the device.
        pack: runs that one process trained as one batched network, this one included; ``seconds`` are those of all.
        best_pack: as many as ``launch.pack: auto`` found to be best; None where it did not measure.
    """

    spec: RunSpec
    seconds: float
    kind: str
    threads: int
    workers: int
    device: str
    pack: int = 1
    best_pack: int | None = None


def measured_runs(store: Store, shapes: Collection[str]) -> dict[str, list[Measured]]:
    """Finished runs in the store by shape, of those in ``shapes``; whatever cannot be read is passed over."""
    found: dict[str, list[Measured]] = {}
    for number, run_dir in enumerate(store):
        if number >= MOST:
            break
        try:
            result, environment = run_dir.result(), run_dir.environment()
            if result is None or environment is None:
                continue
            spec = RunSpec.model_validate(run_dir.spec())
            record = _record(spec, result, environment)
        except (ValidationError, ValueError, KeyError, TypeError, IndexError, OSError):
            continue  # of another version, or half removed
        if (key := shape(spec)) in shapes:
            found.setdefault(key, []).append(record)
    return found


def _record(spec: RunSpec, result: dict[str, Any], environment: dict[str, Any]) -> Measured:
    execution = environment["execution"]
    kind = "cpu" if execution["device"] == "cpu" else "gpu"
    attempt = environment["attempts"][-1]
    packing = attempt.get("packing", {})
    return Measured(
        spec,
        float(result["seconds"]),
        kind,
        int(execution["threads"]),
        int(execution.get("workers", 1)),  # not recorded before runs could have several
        str(attempt["device"]),
        int(execution.get("pack", 1)),
        int(packing["size"]) if packing.get("seconds") else None,
    )
