"""Finished runs in the store, from which the time of others is estimated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from rt_scale.spec.errors import RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import AttemptRecord, Execution, RunResult
from rt_scale.store.store import Store

MOST = 2000
"""Most run directories that are read; names are hashes, so the first ones are a fair sample."""


@dataclass(frozen=True)
class Measured:
    """A finished run; for batched runs, the result's ``seconds`` are those of the whole batch."""

    spec: RunSpec
    result: RunResult
    execution: Execution
    attempt: AttemptRecord

    @property
    def kind(self) -> str:
        """Kind of its device: ``cpu`` or ``gpu``."""
        return "cpu" if self.execution.device == "cpu" else "gpu"

    @property
    def best_pack(self) -> int | None:
        """The batch size that ``launch.pack: auto`` measured to be best, if it did."""
        return self.attempt.packing.size if self.attempt.packing.seconds else None


def measured_runs(store: Store, shapes: Collection[str]) -> dict[str, list[Measured]]:
    """Finished runs in the store by shape, limited to ``shapes``; skips unreadable ones."""
    found: dict[str, list[Measured]] = {}
    for number, run_dir in enumerate(store if shapes else ()):
        if number >= MOST:
            break
        try:
            result, record = run_dir.result(), run_dir.record()
            if result is None or record is None or not record.attempts:
                continue
            spec = RunSpec.model_validate(run_dir.spec())
        except (ValidationError, RunError, OSError):
            continue  # another version's, or being removed
        if (key := spec.shape) in shapes:
            found.setdefault(key, []).append(Measured(spec, result, record.execution, record.attempts[-1]))
    return found
