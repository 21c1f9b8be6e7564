"""Students trained as one batched network: a step of 1, 2, 4, 8, 16, and whole runs against processes on one device."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from lib.gpu.bench import Bench
from profile_run import warm_up

from rt_scale.experiments.batched import measured_batch_size, run_batched
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

MOST = 16
"""Students together; sizes are powers of two, and the search ends where larger ones are clearly slower."""
TOGETHER = 4
"""Runs that are compared whole: one after the other, packed, and as processes that share the device."""
SAMPLES = 10_000
"""Training images of those."""
PATIENCE = 180.0
"""Seconds until processes must have started, and until they must be through; else one of them failed."""


def packing(bench: Bench) -> dict[str, Any]:
    """Seconds of a student's step by students together, and how many times as fast as alone that is."""
    found: dict[str, Any] = {}
    for encoder in dict.fromkeys((*bench.small, bench.encoder)):
        if bench.left > 0:
            steps = measured_batch_size(_specs(bench, encoder, 1)[0], bench.settings(), MOST).seconds
            found[encoder] = {
                "a student's step": steps,
                "ratio": {size: steps[1] / seconds for size, seconds in steps.items()},
            }
    return found


def runs_together(bench: Bench) -> dict[str, Any]:
    """Seconds of whole runs of a small encoder, probes and checkpoints included, in each of three ways."""
    encoder, count = bench.small[0], TOGETHER
    specs = _specs(bench, encoder, count)
    warm_up(specs[0], bench.settings())
    one = _seconds(lambda: run(specs[0], _settings(bench, "one")))
    packed = _seconds(lambda: run_batched(specs, [_settings(bench, "packed")] * count))
    processes = _processes(specs, _settings(bench, "processes"))
    return {
        "encoder": encoder,
        "runs": count,
        "alone, times runs": one * count,
        "packed": packed,
        "processes": processes,
    }


def _specs(bench: Bench, encoder: str, count: int) -> list[RunSpec]:
    changes = {
        "encoder": {"name": encoder}, "precision": bench.precisions[-1], "data.samples": min(SAMPLES, bench.samples)
    }  # fmt: skip
    return [bench.spec({**changes, "seeds": {"student": seed}}) for seed in range(count)]


def _settings(bench: Bench, name: str) -> Options:
    return bench.settings(store=Store(bench.scratch / name))


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _processes(specs: Sequence[RunSpec], settings: Options) -> float:
    """From when all are warm to when all are through."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(len(specs) + 1)
    given = (settings.store.root, settings.data_dir, settings.device, settings.threads, ready)
    workers = [context.Process(target=_alone, args=(spec.model_dump(mode="json"), *given)) for spec in specs]
    for worker in workers:
        worker.start()
    ready.wait(PATIENCE)
    begin = time.perf_counter()
    ready.wait(PATIENCE)
    seconds = time.perf_counter() - begin
    for worker in workers:
        worker.join()
    return seconds


def _alone(
    document: dict[str, Any], store: Path, data_dir: Path, device: str, threads: int | None, ready: Barrier
) -> None:
    spec = RunSpec.model_validate(document)
    settings = Options(store=Store(store), data_dir=data_dir, device=device, threads=threads)
    warm_up(spec, settings)
    ready.wait(PATIENCE)
    run(spec, settings)
    ready.wait(PATIENCE)
