"""How a run is executed: nothing here changes its numbers beyond rounding, so it is not in the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from rt_scale.data.loaders.choose import choose_loader
from rt_scale.data.loaders.ffcv import require_ffcv
from rt_scale.data.loaders.resident import Resident
from rt_scale.experiments.base import Needs
from rt_scale.spec.errors import InputError, first_line, unknown_name
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stop, never
from rt_scale.store.results import BatchSize, Execution
from rt_scale.store.store import Store
from rt_scale.system.machine import allowed_cores, free_host_memory
from rt_scale.training.accelerate import WAYS
from rt_scale.training.distributed import ALONE, Group
from rt_scale.training.loop import Gradients, compute_gradients
from rt_scale.training.precision import check_precision


class Observer(Protocol):
    """Follows the progress of a run: a progress bar, Ray, a test."""

    def stage(self, text: str) -> None:
        """The run enters a stage, e.g. ``probing the student``."""

    def started(self, step: int, steps: int) -> None:
        """Training starts, or continues, at ``step`` of ``steps``."""

    def stepped(self, step: int) -> None:
        """An optimiser step was issued."""

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Metrics were recorded."""

    def decided(self, text: str) -> None:
        """An ``auto`` option was resolved, and why."""

    def warned(self, text: str) -> None:
        """A problem that does not end the run."""


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
        device: ``auto``, or torch's name of a device (``cpu``, ``cuda``, ``cuda:1``).
        threads: CPU threads to compute with; None: as many as the process may use. A resumed run keeps its first
            number, on which the last bits of sums depend.
        cache_teacher: whether a constant teacher's bottleneck features are computed once; None: if they take less than
            a quarter of the free memory.
        channels_last: whether to use torch's memory format of that name.
        accelerate: how the student's pass over whole batches is computed: ``none`` (module by module), ``compile`` or
            ``graphs`` (CUDA's), for runs that train alone with one worker, or ``auto``: graphs on a GPU, but for a
            plugin's encoder. A resumed run keeps its first choice, on which the last bits of results depend.
        loader: reads training images: ``resident`` (in memory), ``ffcv`` (streamed), ``map`` (read from the file as
            needed), or ``auto``: in memory if they take less than half of it, else streamed.
        checkpoint_seconds: time between two checkpoints. The end always writes one; evaluations write more, at most
            ``context.CHECKPOINT_RATE`` bytes a second.
        patience_seconds: how long writes to an unavailable store are tried again before the run ends.
        gpus: GPUs of each process, less than 1 if several runs share one; ignored on the CPU.
        group: the processes that train together, each with its own options; rank 0's decide.
        stop: called after every step; if true, the run writes a checkpoint and raises ``Stopped``.
        resident: the images that this process keeps in memory from run to run.
        batching: how many runs train as one batched network, see ``experiments.batched``.
        gradients: computes the gradients of each training step.
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


def resolve(spec: RunSpec, needs: Needs, options: Options, earlier: Execution | None) -> Execution:
    """Resolve what ``options`` leave open, for a run with these ``needs``.

    Args:
        earlier: record of the run's first attempt, or None. Its threads, cache, memory format and acceleration are
            kept, so that a resumed run's numbers are bitwise those of an undisturbed one.

    Raises:
        InputError: an option is unknown or cannot be used here, or the device lacks the precision.
    """
    device = find_device(options.device)
    for precision in spec.precisions:
        check_precision(precision, device)
    threads = options.threads if options.threads is not None else allowed_cores()
    if threads < 1:
        raise InputError(f"{threads} threads were asked for; give at least 1.")

    def free(place: torch.device) -> int:
        # Images of earlier runs are dropped if this run needs their memory.
        return free_memory(place) + options.resident.held(place)

    cache, channels_last = options.cache_teacher, options.channels_last
    if cache is None:
        cache = needs.cache_bytes < free(device) / 4
    if earlier:
        threads, cache, channels_last = earlier.threads, earlier.cache_teacher, earlier.channels_last
    loader, reason = choose_loader(options.loader, needs.image_bytes, device, free)
    if loader == "ffcv":
        require_ffcv()
    return Execution(
        device=str(device),
        threads=threads,
        cache_teacher=cache,
        channels_last=channels_last,
        loader=loader,
        loader_reason=reason,
        workers=options.group.world,
        gpus=0.0 if device.type == "cpu" else options.gpus,
        pack=options.batching.size,
        accelerate=_accelerate(needs, options, device, earlier),
    )


def _accelerate(needs: Needs, options: Options, device: torch.device, earlier: Execution | None) -> str:
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
    return "graphs" if device.type == "cuda" and needs.whole_batches else "none"


def find_device(name: str) -> torch.device:
    """The torch device of that name; ``auto`` is the first GPU, or the CPU without one. InputError if unusable.

    Makes a numbered GPU torch's current device: streams, pinned memory, compiled kernels and graphs use the current
    device, not the device of their tensors.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
        torch.empty(1, device=device).tolist()  # fails if the device is missing or holds no data (meta)
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise InputError(
            f"The device '{name}' cannot be used here ({first_line(error)}). Here: {', '.join(['cpu', *gpus])}; "
            "'auto' takes the first GPU there is."
        ) from None
    return device


def free_memory(device: torch.device) -> int:
    """Free memory in bytes."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_host_memory()
