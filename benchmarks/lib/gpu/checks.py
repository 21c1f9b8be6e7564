"""Whether the fast ways are right on this device: the curves of each precision, and the host never waiting."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lib.gpu.bench import Bench

from rt_scale.experiments.options import Silent
from rt_scale.experiments.runner import run
from rt_scale.store.store import Store

SEEDS = 3
PROBES = ("probe/student/linear", "probe/student/knn", "probe/teacher/linear")
METRIC = PROBES[0]
WAITED = "called a synchronizing CUDA operation"
"""What torch warns of in ``torch.cuda.set_sync_debug_mode``."""


def fidelity(bench: Bench) -> dict[str, Any]:
    """Probes after a few epochs by precision and seed; each precision should be within float32's seed spread."""
    found: dict[str, Any] = {}
    for precision in bench.precisions:
        results = []
        for seed in range(SEEDS):
            changes = {"precision": precision, "seeds": {"teacher": seed, "student": seed, "data": seed}}
            spec = bench.spec({**changes, "student.alpha": 0.1, "encoder": {"name": bench.small[0]}})
            results.append(run(spec, bench.settings(store=Store(bench.scratch / "fidelity"))).last)
        found[precision] = {name: [each[name] for each in results] for name in (*PROBES, "train/kl")}
    exact = found["float32"][METRIC]
    spread = statistics.stdev(exact)
    for precision in found:
        pairs = zip(found[precision][METRIC], exact, strict=True)
        found[precision]["difference"] = statistics.mean(ours - theirs for ours, theirs in pairs)
    return {"metric": METRIC, "seeds": SEEDS, "spread over seeds": spread, **found}


@dataclass
class Watching(Silent):
    """Has torch warn of every wait for the device, from the first step to the end of the epoch."""

    def started(self, step: int, steps: int) -> None:
        """The cache is made, steps follow."""
        torch.cuda.set_sync_debug_mode("warn")

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """The epoch is over."""
        torch.cuda.set_sync_debug_mode("default")


def waits(bench: Bench) -> dict[str, Any]:
    """Places where the host waited for the device within the first epoch; its end, where metrics are read, is one."""
    if bench.device.type != "cuda":
        return {"how": "there is no GPU to wait for"}
    spec = bench.spec({"train.epochs": 1, "encoder": {"name": bench.small[0]}, "precision": "bf16"})
    settings = replace(bench.settings(store=Store(bench.scratch / "waits")), observer=Watching())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(spec, settings)
    return {"steps": -(-bench.samples // bench.batch), "waits": places(caught)}


def places(caught: Sequence[warnings.WarningMessage]) -> dict[str, int]:
    """Where the host waited, and how often; torch also warns that its watch for that is a prototype."""
    waited = [each for each in caught if WAITED in str(each.message)]
    return dict(Counter(f"{each.filename.rpartition('/rt_scale/')[2]}:{each.lineno}" for each in waited))
