"""The directory of one run, its only state."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict, TypeVar, cast

from rt_scale.spec.errors import InputError, RtScaleError, RunError
from rt_scale.store.atomic import read_json, remove_temporaries, to_json, write_bytes, write_json
from rt_scale.store.checkpoints import Checkpoints
from rt_scale.store.lease import TIMES, Attempt, FileLease, Lease, attempts_at, latest_attempt
from rt_scale.store.results import RunRecord, RunResult, read_stored
from rt_scale.system.files import remove

T = TypeVar("T")
State = Literal["done", "running", "failed", "partial", "missing"]

RUNS = "runs"
SPEC, ENVIRONMENT, METRICS = "spec.json", "environment.json", "metrics.parquet"
SOURCES, ARTIFACTS = "sources.json", "artifacts"
ARTIFACT = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}\.(npz|parquet|png)"
"""Names of the files in the folder ``ARTIFACTS``: arrays, tables and pictures."""
"""Reference of a plugin -> SHA-256 and text of the file that defines it."""
RESULT, FAILURE, CHECKPOINTS = "result.json", "failure.json", "checkpoints"
EVENTS = "events.out.tfevents."
"""Prefix of event files; TensorBoard reads a folder's files in the order of their names."""


class Spec(Protocol):
    """What the store needs of a spec of any kind."""

    @property
    def name(self) -> str:
        """``<kind>-<hash>``, the name of the run and of its folder."""

    def canonical(self) -> Mapping[str, object]:
        """The hashed value, as plain JSON types."""


class Failure(TypedDict, total=False):
    """Why and when (seconds since 1970) an attempt failed, and the attempt's number."""

    reason: str
    traceback: str
    time: float
    attempt: int


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        state: ``done`` (has its result), ``running`` (a live process holds it), ``failed`` (its newest
            attempt recorded a failure), ``partial`` (begun; the next attempt resumes it), ``missing``.
        attempts: attempts made so far.
        owner: ``process <pid> on host <host>`` if it is running.
        heartbeat: its age in words if it is running.
    """

    state: State
    attempts: int = 0
    owner: str | None = None
    heartbeat: str = ""


class RunDir:
    """The directory of one run; writing needs :meth:`acquire`, reading does not.

    For a run in an object store (``ObjectRun``) it is this machine's mirror: :meth:`refresh` downloads what others
    wrote, and every write is uploaded.

    Attributes:
        path: the folder; it need not exist.
        name: of the run: ``<kind>-<hash>``.
        stale: seconds without a heartbeat after which an owner on another machine counts as ended.
    """

    stale = TIMES.stale

    def __init__(self, path: Path) -> None:
        """The run in the folder ``path``."""
        self.path, self.name = path, path.name
        self._lease: Lease | None = None

    @property
    def metrics_path(self) -> Path:
        """The file of the metrics table."""
        return self.path / METRICS

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """For reading; write with :meth:`save_checkpoint`."""
        return Checkpoints(self.path / CHECKPOINTS, self.fetch)

    def refresh(self) -> None:
        """Download what an object store has of the run; InputError if it refuses, StoreUnavailable if it is silent."""

    def fetch(self, step: int) -> None:
        """Download the checkpoint of ``step`` from an object store."""

    def _take(self, watching: Callable[[Attempt], None]) -> Lease:
        return FileLease(self.path, watching=watching)

    def _send(self, *, now: bool = False, ending: bool = False) -> None:
        """Upload what was written here: soon, or before this returns if ``now``.

        ``ending``: now, without waiting for a store that does not answer.
        """

    def _send_result(self, result: bytes) -> None:
        """Upload the result, after everything else."""

    def acquire(self, watching: Callable[[Attempt], None] = lambda attempt: None) -> Lease:
        """Become the one process that writes here, until the returned context manager ends.

        Removes the temporary files of killed attempts.

        Args:
            watching: called while it is uncertain whether the owner runs; see :func:`rt_scale.store.lease.at_work`.

        Raises:
            InputError: a live process holds the run, or the store cannot be written.
            RunError: an object store does not answer.
        """
        self._lease = self._take(watching)
        remove_temporaries(self.path)
        remove_temporaries(self.checkpoints.folder)
        remove_temporaries(self.artifacts)
        return self._lease

    def check(self) -> Lease:
        """The lease that allows this process to write here.

        RunError: this process holds none, another has taken over, or an object store does not answer.
        """
        lease = self._permitted()
        lease.check()
        return lease

    def _permitted(self) -> Lease:
        """As :meth:`check`, before a write to this machine's disk."""
        if self._lease is None:
            raise RunError(f"'{self.path}' was about to be written without its lease; acquire it first.")
        self._lease.check_here()
        return self._lease

    def write_spec(self, spec: Spec) -> None:
        """Record the spec; InputError if another one is recorded here."""
        self._permitted()
        if (recorded := self.spec()) is None:
            write_json(self.path / SPEC, spec.canonical())
            self._send()
        elif recorded != json.loads(to_json(spec.canonical())):
            raise InputError(
                f"'{self.path}' holds another spec: its {SPEC} does not hash to the folder's name, so it was edited. "
                "Restore it, or move the folder out of the store to compute the run again."
            )

    def write_sources(self, sources: Mapping[str, Mapping[str, str]]) -> None:
        """Record the source text of the run's plugins, if it has any; it is for people, and never executed."""
        self._permitted()
        if sources:
            write_json(self.path / SOURCES, sources)
            self._send()

    def spec(self) -> dict[str, object] | None:
        """The recorded spec; None if the run was never begun."""
        return _read_optional(self.path / SPEC)

    def write_record(self, record: RunRecord) -> None:
        """Record how and where the run is executed."""
        self._permitted()
        write_json(self.path / ENVIRONMENT, record.to_json())
        self._send(now=True)  # before the run's work, so that no attempt goes unrecorded

    def record(self) -> RunRecord | None:
        """How and where the run was executed, if recorded."""
        return read_stored(self.path / ENVIRONMENT, RunRecord)

    def save_checkpoint(self, step: int, writer: Callable[[Path], None]) -> None:
        """Write the checkpoint of ``step`` atomically; ``writer`` fills the empty folder that it is given.

        RunError: the disk is full, another process has taken over, or an object store does not answer; in the last case
        the checkpoint stays in this machine's mirror, and the next attempt here uploads it.
        """
        self._permitted()
        self.checkpoints.save(step, writer, self._permitted)
        self._send()

    @property
    def artifacts(self) -> Path:
        """The folder of arrays, tables and pictures; it need not exist."""
        return self.path / ARTIFACTS

    def save_artifact(self, name: str, data: bytes) -> None:
        """Write, or replace, the file ``name`` in ``artifacts`` atomically; ValueError for another name than ARTIFACT.

        RunError: the disk is full, another process has taken over, or an object store does not answer.
        """
        if not re.fullmatch(ARTIFACT, name, re.ASCII):
            raise ValueError(f"an artifact is a file such as grid.npz, curve.parquet or plane.png, not {name!r}")
        self._permitted()
        write_bytes(self.artifacts / name, data)
        self._send()

    def latest_checkpoint(self, loader: Callable[[Path], T], warn: Callable[[str], None]) -> tuple[int, T] | None:
        """The newest sound checkpoint as (step, ``loader(folder)``); see :meth:`Checkpoints.latest`."""
        self._permitted()
        return self.checkpoints.latest(loader, warn)

    def prune(self, keep: Iterable[int]) -> None:
        """Remove every checkpoint whose step is not in ``keep``."""
        self._permitted()
        self.checkpoints.prune(keep)
        self._send()

    def complete(self, result: RunResult) -> None:
        """Record the result, last of all: its file means that the run is done."""
        self._permitted()
        remove(self.path / FAILURE)
        data = to_json(result.to_json())
        self._send(now=True)
        self._send_result(data)
        write_bytes(self.path / RESULT, data)

    def result(self) -> RunResult | None:
        """The result; None if the run is not done."""
        return read_stored(self.path / RESULT, RunResult)

    def fail(self, error: Failure) -> None:
        """Record why this attempt failed, with its number."""
        attempt = self._permitted().attempt
        write_json(self.path / FAILURE, {**error, "attempt": attempt})
        with contextlib.suppress(RtScaleError):  # the caller already reports a failure
            self._send(ending=True)

    def failure(self) -> Failure | None:
        """The newest recorded failure, with its ``attempt``; None if the run is done or never failed."""
        return None if (self.path / RESULT).exists() else cast("Failure | None", _read_optional(self.path / FAILURE))

    def status(self, stale: float | None = None) -> RunStatus:
        """The run's status; ``stale``: another than the store's."""
        if (self.path / RESULT).exists():
            return RunStatus("done", attempts_at(self.path))  # opens no file, since a store may have thousands of runs
        attempt = latest_attempt(self.path)
        attempts = attempt.number if attempt else 0
        if attempt and attempt.is_live(self.stale if stale is None else stale):
            return RunStatus("running", attempts, attempt.who, attempt.heartbeat)
        failure = self.failure()
        if failure and failure.get("attempt") == attempts:
            return RunStatus("failed", attempts)
        return RunStatus("partial" if attempts or (self.path / SPEC).exists() else "missing", attempts)


def _read_optional(path: Path) -> dict[str, object] | None:
    try:
        value: dict[str, object] = read_json(path)
    except FileNotFoundError:
        return None
    return value
