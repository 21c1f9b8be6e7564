"""How fast this device computes, measured for a moment on the largest operations of a run."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rt_scale.plan.work import Operation, Work
from rt_scale.training.loop import keep_freed_memory
from rt_scale.training.precision import arithmetic, parameter_dtype, set_precision

SECONDS = 0.15
"""For which each operation is repeated."""
LEAST = 3
"""Times that it is repeated at least."""
MOST_FLOPS = {"cpu": 4e9, "cuda": 1e12}
"""Of one call; a larger batch is cut, which hardly changes the rate."""
CHAIN = 100
"""Small operations in a row, to measure what it costs to issue one."""
TRAFFIC = (64, 128, 256, 64)
"""Shape of the tensor that is read and written to measure memory traffic: 512 MiB on a GPU, an eighth on a CPU."""


GPU_TRAFFIC, GPU_CALL = 1.5e12, 8e-6
"""Bytes a second, and seconds to issue an operation from Python, of a usual GPU (assumed)."""


@dataclass(frozen=True)
class Rates:
    """What a device does in a second, and how that is known.

    Attributes:
        convolution: FLOPs a second of convolutions.
        product: FLOPs a second of matrix products.
        traffic: bytes a second of other operations.
        call: seconds to issue one operation.
        overlaps: whether operations are issued while others compute, as on GPUs.
        how: in words.
    """

    convolution: float
    product: float
    traffic: float
    call: float
    overlaps: bool
    how: str

    def seconds(self, work: Work) -> float:
        """Time that ``work`` takes."""
        computing = work.convolution / self.convolution + work.product / self.product + work.traffic / self.traffic
        issuing = work.calls * self.call
        return max(computing, issuing) if self.overlaps else computing + issuing


def assumed(teraflops: float) -> Rates:
    """Rates of a GPU that is not here: ``teraflops`` (TFLOP/s) for FLOPs, and of a usual GPU for the rest."""
    how = (
        f"FLOPs counted, at an assumed {teraflops:g} TFLOP/s, {GPU_TRAFFIC / 1e12:g} TB/s and "
        f"{GPU_CALL * 1e6:g} us an operation"
    )
    return Rates(teraflops * 1e12, teraflops * 1e12, GPU_TRAFFIC, GPU_CALL, True, how)


class Clock:
    """Seconds of computing on the CPU as if this process were alone: what the clock says, or the CPU time used where
    that is less, as on a machine that has other things to do, too.

    Args:
        by_wall: what the clock says, always: of another device.

    Attributes:
        total: of all looks.
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
    """Measures rates when they are first asked for, once for each shape.

    Args:
        device: a torch device.
        threads: CPU threads that a run computes with.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        self._operation = functools.cache(self._measure_operation)
        self._rest = functools.cache(self._measure_rest)

    def rates(self, work: Work, precision: str) -> Rates:
        """Rates at the shapes of ``work.largest`` in the arithmetic of ``precision``."""
        with self._as_in_a_run(precision):
            traffic, call = self._rest(precision)
            # Of what the work has none of, any rate will do.
            found = {kind: self._operation(operation, precision) for kind, operation in work.largest.items()}
        cores = f", {self.threads} thread{'s' * (self.threads > 1)}"
        where = f"{self.device}" + ("" if self.device.type == "cuda" else cores)
        return Rates(
            found.get("convolution", traffic),
            found.get("product", traffic),
            traffic,
            call,
            self.device.type == "cuda",
            f"FLOPs counted, rates measured just now ({where})",
        )

    @contextmanager
    def _as_in_a_run(self, precision: str) -> Iterator[None]:
        threads = torch.get_num_threads()
        allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.set_num_threads(self.threads)
        set_precision(precision)
        try:
            with keep_freed_memory(), arithmetic(precision, self.device):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed

    def _measure_operation(self, operation: Operation, precision: str) -> float:
        """FLOPs a second of the operation."""
        dtype = parameter_dtype(precision)
        share = min(1.0, MOST_FLOPS[self.device.type] / operation.flops)
        given, weight = map(list, operation.shapes)
        images = max(1, int(given[0] * share))
        if len(weight) == 3:  # a product of as many matrices on either side
            weight[0] = images
        given[0] = images
        x, w = (torch.ones(shape, device=self.device, dtype=dtype) for shape in (given, weight))
        if len(weight) == 4:
            x, w = (each.contiguous(memory_format=torch.channels_last) for each in (x, w))
            options = dict(operation.options)
            function = functools.partial(functional.conv2d, x, w, **options)
            a_value = math.prod(weight[1:])
        else:
            function = functools.partial(torch.matmul, x, w)
            a_value = weight[-2]
        return 2 * function().numel() * a_value / self._time(function)

    def _measure_rest(self, precision: str) -> tuple[float, float]:
        """Bytes a second, and seconds a call."""
        images = TRAFFIC[0] if self.device.type == "cuda" else TRAFFIC[0] // 8
        large = torch.ones(images, *TRAFFIC[1:], device=self.device, dtype=parameter_dtype(precision))
        seconds = self._time(functools.partial(torch.relu, large))
        small = torch.ones(1, device=self.device, requires_grad=True)

        def chain() -> None:
            value = small
            for _ in range(CHAIN):
                value = torch.sin(value)
            value.backward()  # type: ignore[no-untyped-call]

        return 2 * large.numel() * large.element_size() / seconds, self._time(chain) / (2 * CHAIN)

    def _time(self, function: Callable[[], Tensor | None]) -> float:
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
