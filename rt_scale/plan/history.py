"""What finished runs in the store say of the time that others will take."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rt_scale.spec.errors import RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import AttemptRecord, Execution, RunResult
from rt_scale.store.store import Store

MOST = 2000
"""Run directories that are looked at; names are hashes, so the first ones are a fair sample."""
FREE = (
    ("seeds",),
    ("student", "alpha"),
    ("student", "epsilon"),
    ("student", "start_from"),
    ("student", "temperature"),
    ("teacher", "start_from"),
    ("teacher", "temperature"),
    ("teacher", "momentum"),
    ("train", "epochs"),
    ("train", "freeze_last"),
    ("train", "optimizer", "lr"),
    ("train", "optimizer", "weight_decay"),
    ("probe", "every"),
    ("probe", "lr"),
    ("probe", "l2"),
    ("objective", "label_noise"),
    ("data", "sigma"),
    ("projector", "init"),
)
"""Fields that do not change what a step or a probing costs."""


def shape(spec: RunSpec) -> str:
    """Equal for runs whose steps cost the same, and whose probings do: the canonical spec without ``FREE``."""
    values = spec.canonical()
    for *path, last in FREE:
        part: Any = values
        for name in path:
            part = part.get(name, {})
        part.pop(last, None)
    return json.dumps({key: value for key, value in values.items() if value != {}}, sort_keys=True)


@dataclass(frozen=True)
class Measured:
    """A finished run; of runs trained as one batched network, the result's ``seconds`` are those of all together."""

    spec: RunSpec
    result: RunResult
    execution: Execution
    attempt: AttemptRecord

    @property
    def kind(self) -> str:
        """Of the device that it ran on: ``cpu`` or ``gpu``."""
        return "cpu" if self.execution.device == "cpu" else "gpu"

    @property
    def best_pack(self) -> int | None:
        """As many as ``launch.pack: auto`` found to be best; None where it did not measure."""
        return self.attempt.packing.size if self.attempt.packing.seconds else None


def measured_runs(store: Store, shapes: Collection[str]) -> dict[str, list[Measured]]:
    """Finished runs in the store by shape, of those in ``shapes``; whatever cannot be read is passed over."""
    found: dict[str, list[Measured]] = {}
    for number, run_dir in enumerate(store):
        if number >= MOST:
            break
        try:
            result, record = run_dir.result(), run_dir.record()
            if result is None or record is None or not record.attempts:
                continue
            spec = RunSpec.model_validate(run_dir.spec())
        except (ValidationError, RunError, OSError):
            continue  # of another version, or half removed
        if (key := shape(spec)) in shapes:
            found.setdefault(key, []).append(Measured(spec, result, record.execution, record.attempts[-1]))
    return found
