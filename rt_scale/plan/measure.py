"""Measurements on this machine for estimates: its speed, and times of short runs."""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError

from rt_scale.data.catalogue import BUNDLED
from rt_scale.data.datasets.base import DataInfo
from rt_scale.data.prepared import load
from rt_scale.experiments.options import Options, Silent
from rt_scale.experiments.runner import run
from rt_scale.plan.flops import Rates, flops, meta_network
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.kinds import TrainingSpec
from rt_scale.store.store import Store
from rt_scale.training.loop import keep_freed_memory
from rt_scale.training.precision import arithmetic, parameter_dtype, set_precision

SECONDS = 0.15
"""Least time for which each operation is repeated."""
LEAST = 3
"""Fewest repetitions."""
MOST_FLOPS = {"cpu": 1e10, "cuda": 1e12}
"""Most FLOPs of one call; larger batches are reduced, which hardly changes the rate."""
PRODUCT = (1024, 512, 512)
"""Sizes of the product that is timed for probes: a typical embedding width."""
CHAIN = 100
"""Number of small operations that are timed to measure the cost of issuing one."""
TRAFFIC = (64, 128, 256, 64)
"""Shape of the tensor that measures memory traffic: 512 MiB on a GPU, an eighth on a CPU."""
GPU_TRAFFIC, GPU_CALL = 1.5e12, 8e-6
"""Bytes/s, and seconds to issue an operation from Python, of a typical GPU (assumed)."""
EPOCHS, EVERY, PROBINGS = 3, 2, 3
"""Of a short run: probed at its start, after epoch 2 and at its end, so that one epoch ends without a probing."""
STARTS = 3
"""Process starts of a sweep, one after the other, beside its runs: the command's, Ray's, the runs' (assumed; two sweeps
on two busy cores of an AMD EPYC took 3.5 and 4.2, including the report)."""
IMPORTS = "import ray, torch, rt_scale.experiments.runner, rt_scale.ray_backend.trial"


def assumed(teraflops: float) -> Rates:
    """Rates of a GPU that is not here: ``teraflops`` (TFLOP/s), and those of a typical GPU for the rest."""
    how = (
        f"FLOPs counted, at an assumed {teraflops:g} TFLOP/s, {GPU_TRAFFIC / 1e12:g} TB/s and "
        f"{GPU_CALL * 1e6:g} us an operation"
    )
    return Rates(teraflops * 1e12, teraflops * 1e12, GPU_TRAFFIC, GPU_TRAFFIC, GPU_CALL, True, how)


class Clock:
    """Measures seconds as if this process were alone on the CPU: the lesser of wall time and CPU time.

    With ``by_wall``, for another device, wall time.
    """

    def __init__(self, *, by_wall: bool = False) -> None:
        self.total = 0.0
        self._by_wall = by_wall
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def look(self) -> float:
        """Seconds since the last look."""
        wall, cpu = time.perf_counter(), time.process_time()
        passed = wall - self._wall if self._by_wall else min(wall - self._wall, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        self.total += passed
        return passed


class Calibration:
    """Measures the rates of a device, with so many CPU threads, on first use."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        self._rest = functools.cache(self._measure_rest)

    def rates(self, spec: TrainingSpec, info: DataInfo) -> Rates:
        """Rates of the network of ``spec`` on images of ``info``, and of everything else."""
        with _torch_restored(), keep_freed_memory(), arithmetic(spec.precision, self.device):
            torch.set_num_threads(self.threads)
            set_precision(spec.precision)
            network, (product, traffic, call) = self._measure_network(spec, info), self._rest(spec.precision)
        cores = f", {self.threads} thread{'s' * (self.threads > 1)}"
        where = f"{self.device}" + ("" if self.device.type == "cuda" else cores)
        how = f"FLOPs counted, rates measured just now ({where})"
        return Rates(network, product, math.inf, traffic, call, self.device.type == "cuda", how)

    def _measure_network(self, spec: TrainingSpec, info: DataInfo) -> float:
        """FLOP/s of forward and backward pass, at the run's batch size or a smaller one, see ``MOST_FLOPS``."""
        size, dtype = spec.data.size or info.size, parameter_dtype(spec.precision)
        network = meta_network(spec, info)

        def step(images: torch.Tensor) -> None:
            torch.autograd.backward(network(images).sum())

        one = flops(lambda: step(torch.empty(1, info.channels, size, size, device="meta", dtype=dtype)))
        network = network.to_empty(device=self.device).to(memory_format=torch.channels_last)
        for tensor in network.state_dict().values():
            tensor.fill_(1)  # the values do not change the cost
        batch = max(1, min(spec.train.batch_size, int(MOST_FLOPS[self.device.type] / one)))
        images = torch.ones(batch, info.channels, size, size, device=self.device, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        return batch * one / self._time(lambda: step(images))

    def _measure_rest(self, precision: str) -> tuple[float, float, float]:
        """FLOP/s of a product, bytes/s, and seconds per call."""
        dtype, (rows, inner, columns) = parameter_dtype(precision), PRODUCT
        a, b = (torch.ones(shape, device=self.device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))
        product = 2 * rows * inner * columns / self._time(lambda: torch.matmul(a, b))
        images = TRAFFIC[0] if self.device.type == "cuda" else TRAFFIC[0] // 8
        large = torch.ones(images, *TRAFFIC[1:], device=self.device, dtype=dtype)
        traffic = 2 * large.numel() * large.element_size() / self._time(lambda: torch.relu(large))
        small = torch.ones(1, device=self.device, requires_grad=True)

        def chain() -> None:
            value = small
            for _ in range(CHAIN):
                value = torch.sin(value)
            value.backward()  # type: ignore[no-untyped-call]

        return product, traffic, self._time(chain) / (2 * CHAIN)

    def _time(self, function: Callable[[], object]) -> float:
        """Median seconds of a call."""
        times: list[float] = []
        function()
        self._wait()
        clock = Clock(by_wall=self.device.type != "cpu")
        while len(times) < LEAST or sum(times) < SECONDS:
            function()
            self._wait()
            times.append(clock.look())
        return statistics.median(times)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def _torch_restored() -> Iterator[None]:
    """Restore torch's global state that a run changes."""
    threads = torch.get_num_threads()
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True)
class ShortRunTimes:
    """Seconds of a run by part, on an otherwise idle machine.

    Attributes:
        fixed: once: networks, constant features, first probing, checkpoint, files, result.
        epoch: every epoch.
        probing: every further probing, with the checkpoint after it.
        total: of the short run itself.
    """

    fixed: float
    epoch: float
    probing: float
    total: float

    def seconds(self, epochs: float, probings: int) -> float:
        """Seconds of a run of that many epochs and probings, those at start and end included."""
        return self.fixed + epochs * self.epoch + (probings - 1) * self.probing


@dataclass
class _Watch(Silent):
    """Records the seconds from the end of each step to the end of the next."""

    clock: Clock = field(default_factory=Clock)
    passed: list[float] = field(default_factory=list)

    def started(self, step: int, steps: int) -> None:
        self.clock.look()

    def stepped(self, step: int) -> None:
        self.passed.append(self.clock.look())


def short_run(spec: TrainingSpec) -> TrainingSpec | None:
    """A run of the shape of ``spec`` with ``EPOCHS`` epochs; None if its shape alone is no valid spec."""
    values = json.loads(spec.shape)
    values.setdefault("train", {})["epochs"] = EPOCHS
    values.setdefault("probe", {})["every"] = f"{EVERY}ep"
    try:
        return type(spec).model_validate(values)
    except ValidationError:
        return None


def time_short_run(spec: TrainingSpec, data_dir: Path, threads: int) -> ShortRunTimes | None:
    """Execute and time a short run of the shape of ``spec`` on the CPU, in a temporary store; None if it fails.

    Bundled data missing in ``data_dir`` is prepared in a temporary folder; None if other data is missing.
    """
    short = short_run(spec)
    names = {spec.data.name, *spec.probe.also} - {GAUSSIAN}
    here = all(load(name, data_dir) is not None for name in names)
    if short is None or not (here or names <= BUNDLED):  # the run would download missing data
        return None
    with tempfile.TemporaryDirectory(prefix="rt-scale-plan-") as folder, _torch_restored():
        watch = _Watch()
        options = Options(
            store=Store(Path(folder) / "store"), data_dir=data_dir if here else Path(folder), device="cpu",
            threads=threads, observer=watch,
        )  # fmt: skip
        try:
            run(short, options)
        except RtScaleError:
            return None
        watch.clock.look()
    return _by_part(watch.passed, watch.clock.total)


def _by_part(passed: list[float], total: float) -> ShortRunTimes:
    """``passed``: the seconds of each step, see :class:`_Watch`."""
    each = len(passed) // EPOCHS
    epoch, probed = sum(passed[each : 2 * each]), sum(passed[EVERY * each :])
    probing = max(0.0, probed - epoch)
    fixed = total - EPOCHS * epoch - (PROBINGS - 1) * probing
    return ShortRunTimes(max(0.0, fixed), epoch, probing, total)


def start_seconds() -> float:
    """Seconds that a sweep takes beside its runs: ``STARTS`` times a process start, which is timed here."""
    before, wall = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, stdin=subprocess.DEVNULL, capture_output=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return STARTS * min(cpu, time.perf_counter() - wall)
