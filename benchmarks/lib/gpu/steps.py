"""Eager, graphed, compiled, and both: forward and backward pass of a student, by encoder and precision."""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lib.gpu.bench import Bench, answered, wait
from torch import Tensor

from rt_scale.models.networks import Network, build_pair, to_device
from rt_scale.training.accelerate import Accelerated, compiled, graphed
from rt_scale.training.precision import arithmetic, set_precision

WARM_UP, REPEATS = 3, 20
TUNED, CONTIGUOUS = ", cuDNN tuned", ", contiguous"
WAYS = ("eager", "graphed", "compiled", "compiled, CUDA graphs", f"eager{TUNED}")
"""Of which the product chooses between the first three."""
LAYOUTS = ("eager", f"eager{CONTIGUOUS}")
"""In float32, for which cuDNN has few kernels that take channels last."""
COMPILED: dict[str, dict[str, str]] = {
    "compiled": {},
    "compiled, CUDA graphs": {"mode": "reduce-overhead"},
    "traced": {"backend": "aot_eager"},  # all of compiling but the kernels: enough to run through
}


def compiled_steps(bench: Bench) -> dict[str, Any]:
    """Seconds a pass: median, lowest, highest and n, and what compiling took; nothing is begun late."""
    found: dict[str, Any] = {}
    ways = WAYS if bench.device.type == "cuda" else ("eager", "traced")
    for encoder, precision in itertools.product((bench.encoder, *bench.small), bench.precisions):
        for way in LAYOUTS if precision == "float32" else ways:
            if bench.left > 0:
                found[f"{encoder}, {precision}, {way}"] = answered(_measure, bench, encoder, precision, way)
    return found


def _measure(bench: Bench, encoder: str, precision: str, way: str) -> dict[str, Any]:
    torch.backends.cudnn.benchmark = way.endswith(TUNED)
    try:
        return _timed(bench, encoder, precision, way)
    finally:
        torch.backends.cudnn.benchmark = False


def _timed(bench: Bench, encoder: str, precision: str, way: str) -> dict[str, Any]:
    spec = bench.spec({"encoder": {"name": encoder}, "precision": precision})
    set_precision(precision)
    network = build_pair(spec, bench.data.info.channels, bench.data.info.size).student
    layout = torch.contiguous_format if way.endswith(CONTIGUOUS) else torch.channels_last
    network = to_device(network, bench.device, channels_last=layout is torch.channels_last)
    model = network
    if way == "graphed":
        model = Accelerated(network, bench.batch, graphed)
    elif way in COMPILED:
        model = Accelerated(network, bench.batch, functools.partial(compiled, **COMPILED[way]))
    size = bench.data.info.size
    images = torch.randn(bench.batch, bench.data.info.channels, size, size, device=bench.device)
    images = images.to(memory_format=layout)
    begin = time.perf_counter()
    once = _pass(bench, model, images, precision)
    for _ in range(WARM_UP):
        once()
    first = time.perf_counter() - begin
    seconds = [once() for _ in range(REPEATS if bench.device.type == "cuda" else 2)]
    if isinstance(model, Accelerated) and model.slower_because is not None:
        raise RuntimeError(model.slower_because)
    return {
        "median": statistics.median(seconds), "low": min(seconds), "high": max(seconds), "n": len(seconds),
        "warm-up": first,
    }  # fmt: skip


def _pass(bench: Bench, model: Network, images: Tensor, precision: str) -> Callable[[], float]:
    def once() -> float:
        begin = wait(bench.device)
        torch.compiler.cudagraph_mark_step_begin()
        with arithmetic(precision, bench.device):
            logits = model.of_views((images,))
        torch.autograd.backward(logits.float().square().mean())
        for parameter in model.parameters():
            parameter.grad = None
        return wait(bench.device) - begin

    return once
