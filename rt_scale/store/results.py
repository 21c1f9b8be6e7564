"""``result.json`` and ``environment.json``: a run's result, and how it was computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rt_scale.spec.errors import RunError
from rt_scale.store.atomic import read_json

M = TypeVar("M", bound="Stored")


class Stored(BaseModel):
    """A frozen part of a JSON file; keeps fields that another version wrote."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """The value as plain JSON types."""
        return self.model_dump(mode="json")


class Best(Stored):
    """The best value of a metric, and its epoch and step."""

    value: float
    epoch: float
    step: int


class ImageRecord(Stored):
    """Images as prepared: channels, side in pixels, and per channel mean and deviation of pixels in [0, 1]."""

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class SetRecord(Stored):
    """A data set: its title with its variant, the SHA-256 of its contents, and its images; None: not recorded then."""

    title: str
    sha256: str
    images: ImageRecord | None = None


class DataRecord(SetRecord):
    """The data set that a run distils on, ``also`` probes on (by name), and that its ``starts`` used (by run name)."""

    name: str
    also: dict[str, SetRecord] = {}
    starts: dict[str, DataRecord] = {}

    def sets(self) -> Iterator[tuple[str, SetRecord]]:
        """The run's own data sets by name."""
        yield self.name, self
        yield from self.also.items()


class RunResult(Stored):
    """``result.json``.

    Attributes:
        last, best: metrics by name: last values, and the student's best.
        steps: optimiser steps.
        seconds: over all attempts.
        device_seconds: GPUs and CPU cores held, times seconds; empty if an earlier version did not measure it.
        data: None for a run that reads no data set; last in the file, where ``experiments.other_data`` looks for it.
    """

    version: Literal[1] = 1
    name: str
    last: dict[str, float]
    best: dict[str, Best]
    steps: int
    epochs: int
    seconds: float
    device_seconds: dict[str, float] = {}
    attempts: int
    data: DataRecord | None

    def sets(self) -> Iterator[tuple[str, SetRecord]]:
        """The run's own data sets by name."""
        return iter(()) if self.data is None else self.data.sets()


STUDENT_PASSES = {"eager": "none", "compiled": "compile", "graphed": "graphs"}
"""What earlier versions recorded as ``student_pass``."""


class Execution(Stored):
    """How a run is executed; a resumed run keeps what its numbers depend on.

    Attributes:
        device: torch's name of it.
        threads: CPU threads per worker.
        cache_teacher: whether the teacher's features are computed once.
        loader, loader_reason: what reads training images, and why.
        workers: processes that train one run.
        gpus: GPUs per worker, 0 on the CPU.
        pack: runs trained as one batched network.
        accelerate: how the student's forward and backward passes are executed.
    """

    device: str
    threads: int
    cache_teacher: bool
    channels_last: bool
    loader: str
    loader_reason: str = ""
    workers: int = 1
    gpus: float = 0.0
    pack: int = 1
    accelerate: str = "none"

    @property
    def held(self) -> tuple[str, float]:
        """The run's share of the devices of all workers: ``gpu`` and GPUs, or ``cpu`` and cores (threads)."""
        on_cpu = self.device.startswith("cpu")
        return "cpu" if on_cpu else "gpu", self.workers * (self.threads if on_cpu else self.gpus) / self.pack

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "accelerate" in values:
            return values
        recorded = values.get("student_pass", "eager")
        if recorded not in list(STUDENT_PASSES):
            raise ValueError(f"student_pass {recorded!r} is unknown; known: {', '.join(STUDENT_PASSES)}")
        return {**values, "accelerate": STUDENT_PASSES[recorded]}


class Cpu(Stored):
    """A processor: its model, and how many cores the process may use."""

    model: str | None = None
    cores: int | None = None


class Gpu(Stored):
    """A GPU as its driver and torch describe it; memory in bytes."""

    memory: int | None = None
    capability: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: int | None = None


class BatchSize(Stored):
    """How many runs train as one batched network, and why; ``seconds``: measured, size -> seconds per step and run."""

    size: int = 1
    reason: str = "not asked for"
    seconds: dict[int, float] = {}


class AttemptRecord(Stored):
    """When, where and with what an attempt ran; earlier versions recorded less.

    Attributes:
        time: of its start, in seconds since 1970.
        versions: of packages.
        git_commit, git_dirty: the code's commit, and whether files were changed since; None outside a checkout.
        device: name of the GPU or processor.
        slower: parts that ran slower than intended -> why.
    """

    time: float | None = None
    host: str | None = None
    platform: str | None = None
    python: str | None = None
    versions: dict[str, str | None] = {}
    git_commit: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    gpu: Gpu | None = None
    cpu: Cpu = Field(default_factory=Cpu)
    threads: int | None = None
    workers: int | None = None
    packing: BatchSize = Field(default_factory=BatchSize)
    slower: dict[str, str] = {}


class RunRecord(Stored):
    """``environment.json``: how the run is executed, its data, and its attempts, newest last."""

    version: Literal[1] = 1
    execution: Execution
    data: DataRecord | None
    attempts: list[AttemptRecord]


def read_stored(path: Path, model: type[M]) -> M | None:
    """The file as ``model``; None if there is none; RunError if it is not valid."""
    try:
        return model.model_validate(read_json(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise RunError(
            f"'{path}' is not a {path.name} that this version of rt-scale can read ({where}: {first['msg']}). It was "
            "edited, or a later version wrote it. Restore a copy, or remove its folder to compute that run again."
        ) from error
