"""The speed of this machine, measured."""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rt_scale.experiments.flops import Rates, flops
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from rt_scale.system.memory import keep_freed_memory
from rt_scale.training.precision import arithmetic, parameter_dtype, set_precision

Make = Callable[[], tuple[Network, torch.Tensor]]
"""Makes a network on the meta device, and a batch of meta inputs."""
SECONDS = 0.15
"""Least time for which each operation is repeated."""
LEAST = 3
"""Fewest repetitions."""
MOST_FLOPS = {"cpu": 1e10, "cuda": 1e12}
"""Most FLOPs of one call; larger batches are reduced, which hardly changes the rate."""
PRODUCT = (1024, 512, 512)
"""Sizes of the product that is timed for probes: a typical embedding width."""
SMALLEST: dict[str, Any] = {
    "data": {"name": "digits", "samples": 10},
    "encoder": {"name": "mlp_8_1"},
    "projector": {"hidden": [], "bottleneck": 2, "out_dim": 2},
    "train": {"epochs": 1, "batch_size": 10},
    "probe": {"every": None, "linear": False, "knn": 1, "standardized": False},
}
"""A run of one step."""
CHAIN = 100
"""Number of small operations that are timed to measure the cost of issuing one."""
TRAFFIC = (64, 128, 256, 64)
"""Shape of the tensor that measures memory traffic: 512 MiB on a GPU, an eighth on a CPU."""


def measured_rates(make: Make | None, precision: str, device: torch.device, threads: int) -> Rates:
    """Rates of ``device`` with so many CPU threads: of the network that ``make`` makes, and of the rest.

    It leaves torch's TF32 as the precision wants it.
    """
    with _threads(threads):
        fixed = run_seconds(device.type, threads)
    with _threads(threads), keep_freed_memory(), arithmetic(precision, device):
        set_precision(precision)
        product, traffic, call = _other_rates(precision, device, threads)
        network = product if make is None else _network_rate(*make(), device)
    where = "cuda" if device.type == "cuda" else f"cpu, {threads} thread{'s' * (threads > 1)}"
    how = f"FLOPs counted, rates and the fixed cost of a run measured just now ({where})"
    return Rates(network, product, traffic, call, device.type == "cuda", how, fixed)


@functools.cache
def run_seconds(device: str, threads: int) -> float:
    """Seconds of a run that computes next to nothing, beside the start of its process: median of a few runs."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="rt-scale-plan-") as folder:
        options = Options(store=Store(Path(folder) / "store"), data_dir=Path(folder), device=device, threads=threads)
        for seed in range(LEAST + 1):
            spec = RunSpec.model_validate({**SMALLEST, "seeds": {"teacher": seed}})
            begun = time.perf_counter()
            run(spec, options)
            seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])  # the first one imports and prepares


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _network_rate(network: Network, batch: torch.Tensor, device: torch.device) -> float:
    """FLOP/s of forward and backward pass, at the size of the meta ``batch`` or less, see ``MOST_FLOPS``."""

    def step(images: torch.Tensor) -> None:
        torch.autograd.backward(network(images).sum())

    one = flops(lambda: step(batch[:1]))
    network = network.to_empty(device=device).to(memory_format=torch.channels_last)
    for tensor in network.state_dict().values():
        tensor.fill_(1)  # the values do not change the cost
    size = max(1, min(len(batch), int(MOST_FLOPS[device.type] / one)))
    images = torch.ones(size, *batch.shape[1:], device=device, dtype=batch.dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    return size * one / _time(lambda: step(images), device)


@functools.cache
def _other_rates(precision: str, device: torch.device, threads: int) -> tuple[float, float, float]:
    """FLOP/s of a product, bytes/s, and seconds per call, with ``threads`` as set before."""
    dtype, (rows, inner, columns) = parameter_dtype(precision), PRODUCT
    a, b = (torch.ones(shape, device=device, dtype=dtype) for shape in ((rows, inner), (inner, columns)))
    product = 2 * rows * inner * columns / _time(lambda: torch.matmul(a, b), device)
    images = TRAFFIC[0] if device.type == "cuda" else TRAFFIC[0] // 8
    large = torch.ones(images, *TRAFFIC[1:], device=device, dtype=dtype)
    traffic = 2 * large.numel() * large.element_size() / _time(lambda: torch.relu(large), device)
    small = torch.ones(1, device=device, requires_grad=True)

    def chain() -> None:
        value = small
        for _ in range(CHAIN):
            value = torch.sin(value)
        torch.autograd.backward(value)

    return product, traffic, _time(chain, device) / (2 * CHAIN)


def _time(function: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call; on a CPU as if this process were alone: the lesser of wall time and CPU time."""
    times: list[float] = []
    function()
    while len(times) < LEAST or sum(times) < SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - wall)
        else:
            times.append(min(time.perf_counter() - wall, time.process_time() - cpu))
    return statistics.median(times)
