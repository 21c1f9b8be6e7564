"""How a run is executed: nothing here changes its numbers beyond rounding, so none of it is in the spec."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from rt_scale.data.loaders.choose import choose_loader
from rt_scale.data.loaders.ffcv import require_ffcv
from rt_scale.data.loaders.resident import Resident
from rt_scale.data.prepared import NoiseSet, Prepared
from rt_scale.experiments.check import cache_bytes, image_bytes, training_samples
from rt_scale.spec.errors import InputError, first_line, unknown_name
from rt_scale.spec.run import RunSpec
from rt_scale.store.results import BatchSize, Execution
from rt_scale.store.store import Store
from rt_scale.system.machine import allowed_cores, free_host_memory
from rt_scale.training.accelerate import WAYS
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Gradients, Stop, compute_gradients, never
from rt_scale.training.precision import check_precision


class Observer(Protocol):
    """Whoever wants to see a run move: a progress bar, Ray, a test."""

    def stage(self, text: str) -> None:
        """What is being done now, e.g. ``probing the student``."""

    def started(self, step: int, steps: int) -> None:
        """Training starts, or goes on, at ``step`` of ``steps``."""

    def stepped(self, step: int) -> None:
        """An optimiser step was issued."""

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Numbers were recorded."""

    def decided(self, text: str) -> None:
        """A choice that was left open was made, and why."""

    def warned(self, text: str) -> None:
        """Something the user should know happened, and the run goes on."""


class Silent:
    """An observer that shows nothing."""

    def stage(self, text: str) -> None:
        """Ignored."""

    def started(self, step: int, steps: int) -> None:
        """Ignored."""

    def stepped(self, step: int) -> None:
        """Ignored."""

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Ignored."""

    def decided(self, text: str) -> None:
        """Ignored."""

    def warned(self, text: str) -> None:
        """Ignored."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where and how runs are executed.

    Attributes:
        store, data_dir: where run directories and prepared data sets are.
        device: ``auto``, or a device as torch names it (``cpu``, ``cuda``, ``cuda:1``).
        threads: CPU threads to compute with; None: as many as the process may use. A run that is
            resumed keeps the number it started with, since sums depend on it in their last bits.
        cache_teacher: whether a constant teacher's bottleneck features are computed once; None: where
            they take less than a quarter of the free memory.
        channels_last: whether feature maps lie in memory pixel by pixel, not map by map.
        accelerate: how the student's pass over whole batches is computed: ``none`` (module by module), ``compile`` or
            ``graphs`` (CUDA's), for runs that train alone with one worker, or ``auto``: graphs on a GPU. A run that is
            resumed keeps what it started with, since kernels differ in their last bits.
        loader: what reads training images: ``resident`` (in memory), ``ffcv`` (streamed), ``map`` (read from the file
            as needed), or ``auto``: in memory where they take less than half of it, else streamed.
        checkpoint_seconds: least time between two checkpoints; the end always writes one, and so do evaluations,
            unless they follow one another faster than checkpoints of that size can be written.
        patience_seconds: how long a store that does not answer is tried again before the run ends.
        observer: who watches.
        gpus: GPUs that each process takes, less than 1 where several runs share one; of no account on the CPU.
        group: the processes that train together, each with options of its own; rank 0's decide.
        stop: asked after every step whether to write a checkpoint and stop, which raises ``Stopped``.
        resident: the images that this process keeps in memory from run to run.
        batching: with how many others it trains as one batched network, see ``experiments.batched``.
        gradients: computes those of each step of training.
    """

    store: Store
    data_dir: Path
    device: str = "auto"
    threads: int | None = None
    cache_teacher: bool | None = None
    channels_last: bool = True
    accelerate: str = "auto"
    loader: str = "auto"
    checkpoint_seconds: float = 30.0
    patience_seconds: float = 120.0
    observer: Observer = field(default_factory=Silent)
    gpus: float = 1.0
    group: Group = ALONE
    stop: Stop = never
    resident: Resident = field(default_factory=Resident)
    batching: BatchSize = field(default_factory=BatchSize)
    gradients: Gradients = compute_gradients


@dataclass(frozen=True)
class ResolvedOptions:
    """The options as resolved for one run: :class:`Execution`, which explains the fields, on a device of torch."""

    device: torch.device
    threads: int
    cache_teacher: bool
    channels_last: bool
    loader: str
    loader_reason: str
    workers: int = 1
    gpus: float = 0.0
    pack: int = 1
    accelerate: str = "none"

    @property
    def held(self) -> tuple[str, float]:
        """This run's share of what all workers hold together: ``gpu`` and GPUs, or ``cpu`` and cores (threads)."""
        on_cpu = self.device.type == "cpu"
        return "cpu" if on_cpu else "gpu", self.workers * (self.threads if on_cpu else self.gpus) / self.pack

    def record(self) -> Execution:
        """What is kept of it in ``environment.json``."""
        return Execution.model_validate({**dataclasses.asdict(self), "device": str(self.device)})


def resolve(spec: RunSpec, data: Prepared | NoiseSet, options: Options, earlier: Execution | None) -> ResolvedOptions:
    """Decide what ``options`` leave open.

    Args:
        spec: the run.
        data: the data set that it distils on.
        options: what was asked for.
        earlier: of this run's first attempt, or None. Its threads, its choice to cache, its memory format and its way
            to accelerate are kept, so that a resumed run's numbers are bitwise those of an undisturbed one.

    Raises:
        InputError: where the device is unknown or not there or lacks the precision, threads is not positive, several
            workers are to compile or graph, or the loader is unknown or not installed.
    """
    device = find_device(options.device)
    check_precision(spec.precision, device)
    threads = options.threads if options.threads is not None else allowed_cores()
    if threads < 1:
        raise InputError(f"{threads} threads were asked for; give at least 1.")

    def free(place: torch.device) -> int:
        # What is kept of earlier runs makes room where this one needs it.
        return free_memory(place) + options.resident.held(place)

    cache, channels_last = options.cache_teacher, options.channels_last
    if cache is None:
        cache = cache_bytes(spec, data) < free(device) / 4
    if earlier:
        threads, cache, channels_last = earlier.threads, earlier.cache_teacher, earlier.channels_last
    loader, reason = choose_loader(options.loader, image_bytes(spec, data), device, free)
    if loader == "ffcv":
        require_ffcv()
    gpus = 0.0 if device.type == "cpu" else options.gpus
    pack = options.batching.size
    how = _accelerate(spec, data, options, device, earlier)
    return ResolvedOptions(
        device, threads, cache, channels_last, loader, reason, options.group.world, gpus, pack=pack, accelerate=how
    )


def _accelerate(
    spec: RunSpec, data: Prepared | NoiseSet, options: Options, device: torch.device, earlier: Execution | None
) -> str:
    if options.accelerate not in ("auto", "none", *WAYS):
        raise unknown_name("way to accelerate", options.accelerate, ("auto", "none", *WAYS))
    if options.group.world > 1 and options.accelerate in WAYS:
        raise InputError(f"accelerate {options.accelerate} is for runs of one worker; leave it out, or workers at 1.")
    if options.group.world > 1 or options.batching.size > 1:
        return "none"
    if earlier:
        return earlier.accelerate
    if options.accelerate != "auto":
        return options.accelerate
    whole = training_samples(spec, data) >= spec.train.batch_size
    return "graphs" if device.type == "cuda" and whole else "none"


def find_device(name: str) -> torch.device:
    """The torch device of that name; ``auto`` is the first GPU, or the CPU where there is none.

    A GPU that has a number is torch's current one afterwards: streams, pinned memory, compiled kernels and graphs go
    to the current one, whichever their tensors lie on.

    Raises:
        InputError: where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        torch.empty(1, device=device).tolist()  # fails where there is no such device, or one without memory
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise InputError(
            f"The device '{name}' cannot be used here ({first_line(error)}). Here: {', '.join(['cpu', *gpus])}; "
            "'auto' takes the first GPU there is."
        ) from None
    return device


def free_memory(device: torch.device) -> int:
    """Free memory of the device in bytes."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_host_memory()
